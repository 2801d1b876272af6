"""The ways to an address space, and how they differ, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyvfio import Container, Ioas, IommuType, Kernel
from pyvfio.limits import memlock

Space = Container | Ioas


@dataclass(frozen=True, slots=True)
class Mode:
    """needs: what a kernel must have. The rest is what a caller can see of kernel.md's table of differences.

    has_mapping_limit: 65535 mappings, and a count of what is left. charged: bytes charged to this process for what is
    pinned. needs_group_first: nothing can be mapped before a device. maps_registers: a device's BAR may be mapped for
    another's DMA. ranges_at: when what a device reserves leaves iova_ranges.
    """

    name: str
    needs: frozenset[str]
    open: Callable[[Kernel], Space]
    has_mapping_limit: bool
    charged: Callable[[Kernel], int]
    needs_device_first: bool
    tells_all_page_sizes: bool
    tracks_dirty_pages: bool

    def __str__(self) -> str:
        return self.name


def _locked(kernel: Kernel) -> int:
    return memlock(kernel).charged


def _pinned(kernel: Kernel) -> int:
    return memlock(kernel).pinned


def _container(name: str, kind: IommuType) -> Mode:
    return Mode(
        name,
        frozenset({"container"}),
        lambda kernel: Container(kernel=kernel, iommu_type=kind),
        has_mapping_limit=True,
        charged=_locked,
        needs_device_first=True,
        tells_all_page_sizes=True,
        tracks_dirty_pages=kind is IommuType.TYPE1v2,
    )


def _compatibility(name: str, path: str, needs: str, kind: IommuType) -> Mode:
    return Mode(
        name,
        frozenset({needs}),
        lambda kernel: Container(kernel=kernel, path=path, iommu_type=kind),
        has_mapping_limit=False,
        charged=_pinned,
        needs_device_first=True,
        tells_all_page_sizes=True,
        tracks_dirty_pages=False,
    )


MODES = (
    _container("type1", IommuType.TYPE1),
    _container("type1v2", IommuType.TYPE1v2),
    Mode(
        "iommufd",
        frozenset({"iommufd", "cdev"}),
        lambda kernel: Ioas(kernel=kernel),
        has_mapping_limit=False,
        charged=_pinned,
        needs_device_first=False,
        tells_all_page_sizes=False,
        tracks_dirty_pages=False,
    ),
    _compatibility("compat-type1", "/dev/iommu", "iommufd", IommuType.TYPE1),
    _compatibility("compat-type1v2", "/dev/iommu", "iommufd", IommuType.TYPE1v2),
    _compatibility("iommufd-container-type1", "/dev/vfio/vfio", "iommufd-container", IommuType.TYPE1),
    _compatibility("iommufd-container-type1v2", "/dev/vfio/vfio", "iommufd-container", IommuType.TYPE1v2),
)

_EVERY_KERNEL = frozenset({"container"})
_BUILT = frozenset({"container", "iommufd", "cdev", "noiommu"})
_BUILT_COMPAT = frozenset({"iommufd", "iommufd-container", "cdev", "noiommu"})
_FEATURES = {"built": _BUILT, "built-compat": _BUILT_COMPAT, "simulated": _BUILT | _BUILT_COMPAT}


def features(kernel_name: str) -> frozenset[str]:
    """What a kernel of the tests has, by its name: simulated, or KERNEL-IOMMU."""
    return _FEATURES.get(kernel_name if kernel_name in _FEATURES else kernel_name.rpartition("-")[0], _EVERY_KERNEL)
