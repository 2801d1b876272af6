"""Why a DMA mapping is refused: before the kernel is asked, and after it said no."""

from __future__ import annotations

import errno

from pyvfio.address_space import IovaRange, MappedRun
from pyvfio.errors import (
    AlreadyMapped,
    InvalidArgument,
    MappingLimitReached,
    MemlockExceeded,
    MemoryUnavailable,
    OutsideIovaRanges,
    VfioError,
)
from pyvfio.kernel import Kernel
from pyvfio.limits import memlock


def check_map_arguments(run: MappedRun, page_size: int, iova_ranges: tuple[IovaRange, ...]) -> None:
    """Raises InvalidArgument or OutsideIovaRanges for what no kernel would map. page_size: the IOMMU's smallest."""

    def refuse(meaning: str, advice: str = "", kind: type[VfioError] = InvalidArgument) -> VfioError:
        arguments = {"iova": run.iova, "offset": run.offset, "size": run.size}
        return kind(errno.EINVAL, "map_dma", arguments, meaning, advice)

    if not int(run.access) & 3:
        raise refuse("access must allow reading, writing or both")
    if run.size <= 0 or (run.iova | run.offset | run.size) % page_size:
        raise refuse(f"iova, offset and size must be multiples of the IOMMU's page size {page_size:#_x}")
    if run.offset < 0 or run.offset + run.size > run.memory.size:
        raise refuse(f"outside the memory of {run.memory.size:#_x} bytes")
    granularity = run.granularity
    if granularity is not None and (granularity & (granularity - 1) or granularity < page_size):
        raise refuse(f"granularity {granularity:#_x} must be a power of two, at least {page_size:#_x}")
    if run.iova < 0 or not any(valid.contains(run.iova, run.size) for valid in iova_ranges):
        raise refuse(
            f"the IOMMU translates only {', '.join(str(valid) for valid in iova_ranges)}",
            _nearest(run, page_size, iova_ranges),
            OutsideIovaRanges,
        )


def map_failure(error: OSError, iova: int, size: int, count: int, kernel: Kernel) -> VfioError:
    """The kernel's refusal of one mapping, in words. count: mappings the container held before it."""
    code = error.errno or errno.EIO
    arguments = {"iova": iova, "size": size}
    match code:
        case errno.ENOSPC:
            return MappingLimitReached(
                code,
                "map_dma",
                arguments,
                f"the container holds {count} mappings, its limit since it was opened "
                "(vfio_iommu_type1.dma_entry_limit)",
                "Larger blocks need fewer mappings, or raise the limit and open a new container",
            )
        case errno.EEXIST:
            return AlreadyMapped(
                code, "map_dma", arguments, "another user of this container has mapped some of it already"
            )
        case errno.ENOMEM:
            lock = memlock(kernel)
            if not lock.allows(size):
                return MemlockExceeded(
                    code,
                    "map_dma",
                    arguments,
                    f"RLIMIT_MEMLOCK is {lock.limit:#_x} bytes, {lock.charged:#_x} of them are charged, and "
                    f"{size:#_x} more are needed (a page that is mapped twice is charged twice)",
                    f"Raise it to {lock.charged + size:#_x} or more: ulimit -l, LimitMEMLOCK= or prlimit --memlock",
                )
            return MemoryUnavailable(code, "map_dma", arguments, "no memory left to pin or to map it")
        case errno.EFAULT:
            return MemoryUnavailable(
                code,
                "map_dma",
                arguments,
                "the pages cannot be pinned: not populated and none to be had, or not accessible as asked",
                "Populate the memory first, which says what is missing",
            )
        case errno.EINVAL:
            return VfioError(
                code,
                "map_dma",
                arguments,
                "the IOMMU reserves some of it, or cannot map it with its page sizes",
            )
        case _:
            return VfioError(code, "map_dma", arguments)


def _nearest(run: MappedRun, page_size: int, iova_ranges: tuple[IovaRange, ...]) -> str:
    candidates = []
    for valid in iova_ranges:
        start = -(-valid.start // page_size) * page_size
        last = (valid.last + 1 - run.size) // page_size * page_size
        if start <= last:
            candidates.append(min(max(run.iova, start), last))
    if not candidates:
        return "No range is large enough"
    nearest = min(candidates, key=lambda candidate: abs(candidate - run.iova))
    return f"The nearest address with room for {run.size:#_x} bytes is {nearest:#_x}"
