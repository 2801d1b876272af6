"""Random sequences of calls, which the real and the simulated kernel must answer alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

from pyvfio.abi import vfio
from tests.conformance.areas.setups import READY, READY_TYPE1
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import (
    IOVA,
    check_extension,
    dirty_pages,
    get_dirty_bitmap,
    get_iommu_info,
    map_dma,
    set_iommu,
    unknown_container_ioctl,
    unmap_dma,
    unmap_dma_dirty,
)
from tests.conformance.calls.group import get_status, set_container, unset_container
from tests.conformance.calls.process import allocate, in_child, set_type1_parameter, spawn
from tests.conformance.machine import Machine
from tests.conformance.run import run_steps
from tests.conformance.step import Step

CALLS_PER_SEQUENCE = 200

READ, WRITE, VADDR = vfio.VFIO_DMA_MAP_FLAG_READ, vfio.VFIO_DMA_MAP_FLAG_WRITE, vfio.VFIO_DMA_MAP_FLAG_VADDR
ALL, INVALIDATE = vfio.VFIO_DMA_UNMAP_FLAG_ALL, vfio.VFIO_DMA_UNMAP_FLAG_VADDR
GET_DIRTY = vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP
START, STOP = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START, vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
TOP = 1 << 64

# Small numbers of pages in a small window, so that calls meet each other's mappings.
_WINDOW = 48
_LARGEST, _OFFSETS = 16, 32
_ODD_ADDRESSES = (
    *(0, IOVA + 1, IOVA + PAGE // 2, 0xFEDF_F000, 0xFEE0_0000, 1 << 39, 1 << 48, TOP - 3 * PAGE, TOP - 1),
    # Before 6.18 it spoils the kernel's tree, and what that tree finds depends on its shape.
    *([TOP - PAGE] * 3),
)
_ODD_SIZES = (0, 1, PAGE - 1, PAGE + 1, 1 << 32, TOP - PAGE, TOP - 1)


def has_sequences(features: Collection[str]) -> bool:
    """Whether a machine with these can run them: they are for type1, and without an IOMMU there is nothing to map."""
    return "type1" in features and "noiommu" not in features


def setup(seed: int) -> list[Step]:
    """type1 for one in eight; a small limit for one in four; a second process always."""
    chosen = random.Random(~seed)
    limit = [set_type1_parameter(name="dma_entry_limit", value="6")] if chosen.random() < 0.25 else []
    ready = READY_TYPE1 if chosen.random() < 0.125 else READY
    return [*limit, *ready, spawn(), in_child(step=allocate(name="own", pages=_OFFSETS + _LARGEST))]


def sequence(seed: int, calls: int) -> list[Step]:
    """The same for the same arguments, always. One in four begins with the last page of all."""
    chosen = random.Random(seed)
    first = [map_dma(iova=TOP - PAGE)] if chosen.random() < 0.25 else []
    kinds: dict[Callable[[random.Random], Step], int] = {
        _map: 40,
        _unmap: 25,
        _invalidate: 5,
        _update_vaddr: 6,
        _track: 5,
        _get_dirty: 7,
        _unmap_dirty: 4,
        _query: 6,
        _life_cycle: 2,
        _in_child: 12,
    }
    return [
        *first,
        *(kind(chosen) for kind in chosen.choices([*kinds], weights=[*kinds.values()], k=calls - len(first))),
    ]


def compare(seed: int, calls: int, real: Machine, simulated: Machine) -> list[str]:
    """The shortest sequence found in which the two differ, as the lines of a case; empty if they agree in all."""

    def differ(steps: Sequence[Step]) -> int | None:
        """The number of the first call with two answers."""
        theirs, ours = (run_steps(steps, setup(seed), machine) for machine in (real, simulated))
        return next(
            (number for number, (one, other) in enumerate(zip(theirs, ours, strict=True)) if one != other), None
        )

    steps = sequence(seed, calls)
    if differ(steps) is None:
        return []
    steps = shrunk(steps, differ)
    theirs, ours = (run_steps(steps, setup(seed), machine) for machine in (real, simulated))
    lines = [f"{step}" for step in (*setup(seed), *steps)]
    return [*lines, f"real {theirs[-1]}", f"simulated {ours[-1]}"]


def shrunk(steps: Sequence[Step], differ: Callable[[Sequence[Step]], int | None]) -> list[Step]:
    """The shortest part of steps found that still differs, in its last call. Each try runs on both kernels."""
    first = differ(steps)
    assert first is not None
    best = list(steps[: first + 1])
    chunk = len(best) // 2
    while chunk:
        start = 0
        while start < len(best) - 1:
            candidate = best[:start] + best[start + chunk :]
            found = differ(candidate) if candidate else None
            if found is None:
                start += chunk
            else:
                best = candidate[: found + 1]
        chunk //= 2
    return best


def _map(chosen: random.Random) -> Step:
    flags = chosen.choice([READ, WRITE, *[READ | WRITE] * 6])
    match chosen.random():
        case x if x < 0.75:
            return map_dma(iova=_address(chosen), size=_size(chosen), offset=_offset(chosen), flags=flags)
        case x if x < 0.85:
            odd = chosen.choice(_ODD_ADDRESSES)
            return map_dma(iova=odd, size=chosen.choice([PAGE, 2 * PAGE]), flags=flags)
        case x if x < 0.9:
            return map_dma(iova=_address(chosen), size=chosen.choice(_ODD_SIZES), flags=flags)
        case x if x < 0.94:
            memory = chosen.choice(["hole", "none", "readonly", "memfd"])
            return map_dma(iova=_address(chosen), size=_size(chosen), memory=memory, flags=WRITE)
        case _:
            bad = chosen.choice([{"flags": 0}, {"flags": 8}, {"flags": 7}, {"argsz": 31}, {"reach": 31}, {"offset": 1}])
            return _but(map_dma(iova=_address(chosen), size=_size(chosen)), bad)


def _unmap(chosen: random.Random) -> Step:
    match chosen.random():
        case x if x < 0.8:
            return unmap_dma(iova=_address(chosen), size=_size(chosen))
        case x if x < 0.86:
            return unmap_dma(iova=0, size=0, flags=ALL)
        case x if x < 0.92:
            return unmap_dma(iova=chosen.choice(_ODD_ADDRESSES), size=chosen.choice([*_ODD_SIZES, PAGE]))
        case _:
            bad = chosen.choice([{"flags": 8}, {"flags": ALL}, {"argsz": 23}, {"reach": 23}, {"size": 0}])
            return _but(unmap_dma(iova=_address(chosen)), bad)


def _invalidate(chosen: random.Random) -> Step:
    if chosen.random() < 0.3:
        return unmap_dma(iova=0, size=0, flags=ALL | INVALIDATE)
    return unmap_dma(iova=_address(chosen), size=_size(chosen), flags=INVALIDATE)


def _update_vaddr(chosen: random.Random) -> Step:
    return map_dma(iova=_address(chosen), size=_size(chosen), offset=_offset(chosen), flags=VADDR)


def _track(chosen: random.Random) -> Step:
    return dirty_pages(flags=chosen.choice([*[START] * 5, STOP, 0, 3, 8]))


def _get_dirty(chosen: random.Random) -> Step:
    start = chosen.choice([_address(chosen), IOVA])
    size = chosen.choice([_size(chosen), _WINDOW * PAGE, 2 * _WINDOW * PAGE])
    return get_dirty_bitmap(
        iova=start,
        size=size,
        bitmap_size=chosen.choice([8, 16, 16, 16, 7]),
        pgsize=chosen.choice([*[PAGE] * 8, 8192, 2048]),
        fill=chosen.choice([0, 0x11, 0xFF]),
    )


def _unmap_dirty(chosen: random.Random) -> Step:
    return unmap_dma_dirty(
        iova=chosen.choice([_address(chosen), IOVA]),
        size=chosen.choice([_size(chosen), _WINDOW * PAGE]),
        flags=chosen.choice([*[GET_DIRTY] * 6, GET_DIRTY | ALL]),
        bitmap_size=chosen.choice([8, 8, 16, 1]),
        fill=chosen.choice([0, 0x11]),
    )


def _query(chosen: random.Random) -> Step:
    return chosen.choice(
        [
            get_iommu_info(),
            get_iommu_info(argsz=chosen.choice([0, 15, 16, 20, 24, 100])),
            check_extension(extension=chosen.randrange(12)),
            get_status(),
            unknown_container_ioctl(number=chosen.randrange(15, 25)),
        ]
    )


def _life_cycle(chosen: random.Random) -> Step:
    """The container loses its group and its mappings, or gets them back."""
    kind = vfio.VFIO_TYPE1v2_IOMMU
    return chosen.choice(
        [unset_container(), set_container(), set_iommu(kind=kind), set_iommu(kind=chosen.randrange(12))]
    )


def _in_child(chosen: random.Random) -> Step:
    """The other process maps its own memory, unmaps anybody's, and takes mappings over."""
    iova, size = _address(chosen), _size(chosen)
    match chosen.random():
        case x if x < 0.5:
            step = map_dma(iova=iova, size=size, memory="own", offset=_offset(chosen))
        case x if x < 0.7:
            step = map_dma(iova=iova, size=size, memory="own", offset=_offset(chosen), flags=VADDR)
        case x if x < 0.9:
            step = unmap_dma(iova=iova, size=size)
        case _:
            step = unmap_dma(iova=0, size=0, flags=ALL | INVALIDATE)
    return in_child(step=step)


def _but(step: Step, changed: dict[str, int]) -> Step:
    return Step(step.name, {**step.arguments, **changed})


def _address(chosen: random.Random) -> int:
    return IOVA + chosen.randrange(_WINDOW) * PAGE


def _size(chosen: random.Random) -> int:
    return chosen.choice([1, 1, 1, 2, 2, 3, 4, 8, _LARGEST]) * PAGE


def _offset(chosen: random.Random) -> int:
    return chosen.randrange(_OFFSETS) * PAGE
