"""The container before and after it has an IOMMU. Source: drivers/vfio/container.c."""

from errno import EINVAL, ENODEV, ENOTTY

from pyvfio.abi import vfio
from tests.conformance.areas.setups import ATTACHED, READY, READY_TYPE1
from tests.conformance.calls.container import (
    check_extension,
    dirty_pages,
    get_api_version,
    get_iommu_info,
    map_dma,
    open_container,
    set_iommu,
    unknown_container_ioctl,
    unmap_dma,
)
from tests.conformance.calls.group import set_container, unset_container
from tests.conformance.calls.process import close
from tests.conformance.case import Case, Expected, by_iommu, ok, since

_BEFORE = [open_container()]
_NO, _YES = ok(value=0), ok(value=1)
_NESTING = since({(6, 1): _YES, (6, 18): _NO})

# Extension: before a group is attached, and with a type1v2 IOMMU.
_EXTENSIONS: dict[str, tuple[int, Expected, Expected]] = {
    "0": (0, _NO, _NO),
    "type1": (vfio.VFIO_TYPE1_IOMMU, _YES, _YES),
    "SPAPR": (vfio.VFIO_SPAPR_TCE_IOMMU, _NO, _NO),
    "type1v2": (vfio.VFIO_TYPE1v2_IOMMU, _YES, _YES),
    "cache coherency": (vfio.VFIO_DMA_CC_IOMMU, _NO, by_iommu(intel=_NO, amd=_YES, virtio=_NO)),
    "EEH": (vfio.VFIO_EEH, _NO, _NO),
    "nesting": (vfio.VFIO_TYPE1_NESTING_IOMMU, _NESTING, _NESTING),
    "noiommu, which is not allowed": (vfio.VFIO_NOIOMMU_IOMMU, _NO, _NO),
    "SPAPR v2": (vfio.VFIO_SPAPR_TCE_v2_IOMMU, _NO, _NO),
    "UNMAP_ALL": (vfio.VFIO_UNMAP_ALL, _YES, _YES),
    "UPDATE_VADDR": (vfio.VFIO_UPDATE_VADDR, _NO, _YES),
    "11": (11, _NO, _NO),
    "-1": (-1, _NO, _NO),
}

CASES = [
    Case("API version", _BEFORE, get_api_version(), _NO),
    Case("API version with an IOMMU", READY, get_api_version(), _NO),
    *(
        Case(f"extension {name}", _BEFORE, check_extension(extension=number), expected)
        for name, (number, expected, _) in _EXTENSIONS.items()
    ),
    *(
        Case(f"extension {name} with a group", ATTACHED, check_extension(extension=number), expected)
        for name, (number, expected, _) in _EXTENSIONS.items()
    ),
    *(
        Case(f"extension {name} with an IOMMU", READY, check_extension(extension=number), expected)
        for name, (number, _, expected) in _EXTENSIONS.items()
    ),
    Case("extension UPDATE_VADDR, type1", READY_TYPE1, check_extension(extension=vfio.VFIO_UPDATE_VADDR), _YES),
    Case("info before SET_IOMMU", _BEFORE, get_iommu_info(), EINVAL),
    Case("map before SET_IOMMU", _BEFORE, map_dma(), EINVAL),
    Case("map before SET_IOMMU, with a group", ATTACHED, map_dma(), EINVAL),
    Case("unmap before SET_IOMMU", ATTACHED, unmap_dma(), EINVAL),
    Case("dirty pages before SET_IOMMU", ATTACHED, dirty_pages(flags=1), EINVAL),
    Case("nothing is read before SET_IOMMU", ATTACHED, map_dma(reach=0), EINVAL),
    *(
        Case(f"ioctl {number} before SET_IOMMU", ATTACHED, unknown_container_ioctl(number=number), EINVAL)
        for number in (3, 15, 16, 18, 99)
    ),
    *(
        Case(f"ioctl {number} with an IOMMU", READY, unknown_container_ioctl(number=number), ENOTTY)
        for number in (3, 4, 7, 15, 16, 18, 21, 99)
    ),
    Case("SET_IOMMU without a group", _BEFORE, set_iommu(), EINVAL),
    Case("SET_IOMMU type1", ATTACHED, set_iommu(kind=vfio.VFIO_TYPE1_IOMMU), ok()),
    Case("SET_IOMMU type1v2", ATTACHED, set_iommu(), ok()),
    Case("SET_IOMMU twice", READY, set_iommu(), EINVAL),
    Case("SET_IOMMU of another kind", READY, set_iommu(kind=vfio.VFIO_TYPE1_IOMMU), EINVAL),
    Case(
        "SET_IOMMU nesting",
        ATTACHED,
        set_iommu(kind=vfio.VFIO_TYPE1_NESTING_IOMMU),
        since({(6, 1): EINVAL, (6, 18): ENODEV}),
        models=["intel", "virtio"],
    ),
    Case("SET_IOMMU with an extension that is no IOMMU", ATTACHED, set_iommu(kind=vfio.VFIO_UNMAP_ALL), EINVAL),
    Case("SET_IOMMU with an extension that needs one", ATTACHED, set_iommu(kind=vfio.VFIO_UPDATE_VADDR), ENODEV),
    *(
        Case(f"SET_IOMMU {kind}", ATTACHED, set_iommu(kind=kind), ENODEV)
        for kind in (0, vfio.VFIO_SPAPR_TCE_IOMMU, vfio.VFIO_SPAPR_TCE_v2_IOMMU, 99, -1)
    ),
    Case("SET_IOMMU noiommu for a group that has one", ATTACHED, set_iommu(kind=vfio.VFIO_NOIOMMU_IOMMU), ENODEV),
    Case(
        "a failed SET_IOMMU can be followed by another",
        ATTACHED,
        set_iommu(kind=99),
        ENODEV,
        after=[(set_iommu(), ok())],
    ),
    Case(
        "the last group takes the IOMMU along",
        [*READY, map_dma()],
        unset_container(),
        ok(locked=-1),
        after=[(map_dma(), EINVAL), (set_iommu(), EINVAL), (set_container(), ok()), (set_iommu(), ok())],
    ),
    Case(
        "after the last group another kind can be chosen",
        [*READY, unset_container(), set_container()],
        set_iommu(kind=vfio.VFIO_TYPE1_IOMMU),
        ok(),
    ),
    Case("closing the container leaves the mappings to its group", [*READY, map_dma()], close(name="container"), ok()),
    Case(
        "closing the group ends the mappings",
        [*READY, map_dma()],
        close(name="group"),
        ok(locked=-1),
        after=[(map_dma(), EINVAL)],
    ),
]
