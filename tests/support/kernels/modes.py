"""The ways to an address space, and how they differ, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyvfio import Container, Ioas, IommuType, Kernel
from pyvfio.kernel import memlock

Space = Container | Ioas


@dataclass(frozen=True, slots=True)
class Mode:
    """needs: features a kernel must have. The rest is what a caller sees of the differences:

    has_mapping_limit: 65535 mappings, and a count of those left. charged: bytes that are pinned, where the kernel
    counts them. tells_all_page_sizes: or only the smallest. tracks_dirty_pages: Container.track_dirty() works.
    """

    name: str
    needs: frozenset[str]
    open: Callable[[Kernel], Space]
    has_mapping_limit: bool
    charged: Callable[[Kernel], int]
    tells_all_page_sizes: bool
    tracks_dirty_pages: bool


def _locked(kernel: Kernel) -> int:
    return memlock(kernel).charged


def _pinned(kernel: Kernel) -> int:
    return memlock(kernel).pinned


def _container(name: str, kind: IommuType) -> Mode:
    return Mode(
        name,
        frozenset({"type1"}),
        lambda kernel: Container(kernel=kernel, iommu_type=kind),
        has_mapping_limit=True,
        charged=_locked,
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
        tells_all_page_sizes=False,
        tracks_dirty_pages=False,
    ),
    _compatibility("compat-type1", "/dev/iommu", "iommufd", IommuType.TYPE1),
    _compatibility("compat-type1v2", "/dev/iommu", "iommufd", IommuType.TYPE1v2),
    _compatibility("iommufd-container-type1", "/dev/vfio/vfio", "compat", IommuType.TYPE1),
    _compatibility("iommufd-container-type1v2", "/dev/vfio/vfio", "compat", IommuType.TYPE1v2),
)
