"""VFIO_IOMMU_GET_INFO and its capabilities. Source: vfio_iommu_type1_get_info."""

from errno import EFAULT, EINVAL

from tests.conformance.areas.setups import READY, READY_TYPE1
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA, get_iommu_info, map_dma, unmap_dma
from tests.conformance.calls.group import open_group, set_container
from tests.conformance.calls.process import set_type1_parameter
from tests.conformance.case import Case, Expected, Version, by_iommu, ok, since

_ALIGNED: Version = (6, 6)
_PAGE_SIZES: dict[str, dict[Version, int]] = {
    "intel": {(6, 1): 0x4020_1000},
    "amd": {(6, 1): 0xFFFF_FF7F_FFFF_F000, (6, 12): 0xF_FF7F_FFFF_F000, (7, 0): 0x7F7F_FFFF_F000},
    "virtio": {(6, 1): 0xFFFF_FFFF_FFFF_F000},
}
_LOW = [0, 0xFEDF_FFFF]
_RANGES: dict[str, dict[Version, list[list[int]]]] = {
    "intel": {(6, 1): [_LOW, [0xFEF0_0000, (1 << 39) - 1]]},
    "amd": {
        (6, 1): [_LOW, [0xFEF0_0000, 0xFC_FFFF_FFFF], [0x100_0000_0000, (1 << 64) - 1]],
        (6, 18): [_LOW, [0xFEF0_0000, 0xFC_FFFF_FFFF], [0x100_0000_0000, (1 << 48) - 1]],
    },
    "virtio": {(6, 1): [_LOW, [0xFEF0_0000, (1 << 64) - 1]]},
}


def _each(answer: dict[str, dict[Version, Expected]]) -> Expected:
    return by_iommu(**{model: since(versions) for model, versions in answer.items()})


def _chain(left: int) -> Expected:
    """MIGRATION, DMA_AVAIL, IOVA_RANGE; before 6.6 the second is not padded to 8 bytes."""

    def chain(version: Version, ranges: list[list[int]]) -> list[list[object]]:
        last = 72 if version >= _ALIGNED else 68
        return [[24, 2, 1, 0, PAGE, 1 << 28], [56, 3, 1, left], [last, 1, 1, *ranges]]

    def at(model: str, version: Version) -> list[list[int]]:
        return _RANGES[model][max(each for each in _RANGES[model] if each <= version)]

    boundaries: list[Version] = [(6, 1), _ALIGNED, (6, 18)]
    return by_iommu(
        **{
            model: since(
                {
                    version: ok(flags=3, cap_offset=24, chain=chain(version, at(model, version)))
                    for version in boundaries
                }
            )
            for model in _RANGES
        }
    )


def _needed() -> Expected:
    """What a small argsz is told: how large the whole would be, and no offset."""

    def size(model: str, version: Version) -> int:
        ranges = _RANGES[model][max(each for each in _RANGES[model] if each <= version)]
        return (88 if version >= _ALIGNED else 84) + 16 * len(ranges)

    return by_iommu(
        **{
            model: since(
                {
                    version: ok(argsz=size(model, version), flags=3, cap_offset=0)
                    for version in ((6, 1), _ALIGNED, (6, 18))
                }
            )
            for model in _RANGES
        }
    )


CASES = [
    Case(
        "page sizes",
        READY,
        get_iommu_info(),
        _each(
            {
                model: {version: ok(iova_pgsizes=sizes) for version, sizes in versions.items()}
                for model, versions in _PAGE_SIZES.items()
            }
        ),
    ),
    Case("capabilities", READY, get_iommu_info(), _chain(65535)),
    Case("capabilities, type1", READY_TYPE1, get_iommu_info(), _chain(65535)),
    Case("one mapping less", [*READY, map_dma()], get_iommu_info(), _chain(65534)),
    Case("two mappings less", [*READY, map_dma(), map_dma(iova=IOVA + PAGE)], get_iommu_info(), _chain(65533)),
    Case("as many as ever after an unmap", [*READY, map_dma(), unmap_dma()], get_iommu_info(), _chain(65535)),
    Case(
        "two groups",
        [*READY, open_group(device="1", name="second"), set_container(group="second")],
        get_iommu_info(),
        _chain(65535),
    ),
    Case(
        "another limit", [set_type1_parameter(name="dma_entry_limit", value="7"), *READY], get_iommu_info(), _chain(7)
    ),
    Case("argsz 16", READY, get_iommu_info(argsz=16), ok(flags=3, cap_offset=0xAAAA, pad=0xBBBB)),
    Case("argsz 20", READY, get_iommu_info(argsz=20), ok(flags=3, cap_offset=0, pad=0xBBBB)),
    Case("argsz 24", READY, get_iommu_info(argsz=24), _needed()),
    Case("argsz of all but the last byte", READY, get_iommu_info(argsz=115), _needed()),
    Case("argsz 24, exactly", READY, get_iommu_info(argsz=24, reach=24), _needed()),
    Case("argsz 16, exactly", READY, get_iommu_info(argsz=16, reach=16), ok(flags=3)),
    Case("argsz 15", READY, get_iommu_info(argsz=15), EINVAL),
    Case("argsz 0", READY, get_iommu_info(argsz=0), EINVAL),
    Case("struct one byte short", READY, get_iommu_info(reach=15), EFAULT),
    Case("no struct", READY, get_iommu_info(reach=0), EFAULT),
    Case("room that is not there", READY, get_iommu_info(argsz=1024, reach=24), EFAULT),
    Case("room for less than is written", READY, get_iommu_info(argsz=24, reach=16), EFAULT),
]
