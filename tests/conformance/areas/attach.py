"""Groups joining a container that has an IOMMU, and leaving it. Source: vfio_iommu_type1_attach_group."""

from errno import EBUSY, EINVAL, EPERM

from pyvfio.abi import vfio
from tests.conformance.areas.setups import ATTACHED, OPEN, READY
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA, map_dma, open_container, set_iommu, unmap_dma
from tests.conformance.calls.group import get_device_fd, open_group, set_container, unset_container
from tests.conformance.calls.process import close, set_type1_parameter
from tests.conformance.case import Case, ok

_SECOND = open_group(device="1", name="second")
_JOIN = set_container(group="second")
_SAFE = set_type1_parameter(name="allow_unsafe_interrupts", value="0")
_INVALIDATE = unmap_dma(flags=vfio.VFIO_DMA_UNMAP_FLAG_VADDR)

CASES = [
    Case("a second group", [*READY, _SECOND], _JOIN, ok(), after=[(map_dma(), ok(mapped=1, locked=1))]),
    Case("a second group, before SET_IOMMU", [*ATTACHED, _SECOND], _JOIN, ok(), after=[(set_iommu(), ok())]),
    Case("mappings are not charged again", [*READY, map_dma(), _SECOND], _JOIN, ok()),
    Case(
        "the second group sees its devices",
        [*READY, _SECOND, _JOIN],
        get_device_fd(group="second", device="1"),
        ok(),
    ),
    Case(
        "one of two groups leaves",
        [*READY, map_dma(), _SECOND, _JOIN],
        unset_container(),
        ok(),
        after=[(map_dma(iova=IOVA + PAGE), ok(mapped=1, locked=1)), (unset_container(group="second"), ok(locked=-2))],
    ),
    Case(
        "one of two groups is closed",
        [*READY, map_dma(), _SECOND, _JOIN],
        close(name="group"),
        ok(),
        after=[(unmap_dma(), ok(size=PAGE, mapped=-1, locked=-1))],
    ),
    Case("join while an address is invalid", [*READY, map_dma(), _INVALIDATE, _SECOND], _JOIN, EBUSY),
    Case(
        "join after the address is valid again",
        [*READY, map_dma(), _INVALIDATE, map_dma(flags=vfio.VFIO_DMA_MAP_FLAG_VADDR), _SECOND],
        _JOIN,
        ok(),
    ),
    Case("a group in two containers", [*READY, open_container(name="other")], set_container(container="other"), EINVAL),
    Case(
        "two containers",
        [*READY, map_dma(), open_container(name="other"), _SECOND, set_container(group="second", container="other")],
        set_iommu(container="other"),
        ok(),
        after=[(map_dma(container="other"), ok(locked=1)), (unset_container(group="second"), ok(locked=-1))],
    ),
    Case("SET_IOMMU with interrupt remapping", [_SAFE, *ATTACHED], set_iommu(), ok(), needs=["remapping"]),
    Case("SET_IOMMU without interrupt remapping", [_SAFE, *ATTACHED], set_iommu(), EPERM, needs=["no-remapping"]),
    Case(
        "SET_IOMMU after interrupts were allowed",
        [_SAFE, *OPEN, set_container(), set_type1_parameter(name="allow_unsafe_interrupts", value="1")],
        set_iommu(),
        ok(),
    ),
    Case("join with interrupt remapping", [*READY, _SAFE, _SECOND], _JOIN, ok(), needs=["remapping"]),
    Case(
        "join without interrupt remapping",
        [*READY, _SAFE, _SECOND],
        _JOIN,
        EPERM,
        after=[(map_dma(), ok(mapped=1, locked=1))],
        needs=["no-remapping"],
    ),
    Case("a pair", [open_container(), open_group(device="pair0"), set_container()], set_iommu(), ok(), needs=["pair"]),
    Case(
        "a pair and another group",
        [*READY, map_dma(), open_group(device="pair0", name="pair")],
        set_container(group="pair"),
        ok(),
        needs=["pair"],
    ),
]
