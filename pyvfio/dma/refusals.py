"""Why a DMA mapping is refused: before the kernel is asked, and by the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import replace

from pyvfio.dma.address_space import Access, IovaRange, MappedRun
from pyvfio.errors import (
    AlreadyMapped,
    InvalidArgument,
    MappingLimitReached,
    MemlockExceeded,
    MemoryUnavailable,
    OutsideIovaRanges,
    ShortUnmap,
    VfioError,
)
from pyvfio.kernel import Kernel, memlock_if_known
from pyvfio.memory import DmaTarget


def check_map_arguments(
    run: MappedRun, page_size: int, iova_ranges: tuple[IovaRange, ...], operation: str = "map_dma"
) -> None:
    """Check what every kernel would refuse to map.

    page_size: the IOMMU's smallest, in bytes. iova_ranges: where mappings may lie. operation: what was asked for.
    Raises InvalidArgument, or OutsideIovaRanges for a run outside iova_ranges.
    """

    def refuse(meaning: str, advice: str = "", kind: type[VfioError] = InvalidArgument) -> VfioError:
        arguments = {"iova": run.iova, "offset": run.offset, "size": run.size}
        return kind(errno.EINVAL, operation, arguments, meaning, advice)

    numbers = (run.iova, run.offset, run.size, 0 if run.granularity is None else run.granularity)
    if not all(isinstance(number, int) for number in numbers):
        raise refuse("iova, offset, size and granularity are numbers of bytes, whole ones")
    if not _allows_something(run.access):
        raise refuse("access must be an Access that allows reading, writing or both")
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


def _allows_something(access: object) -> bool:
    return isinstance(access, Access) and bool(access & Access.READ_WRITE)


def check_target(memory: object, operation: str, iova: int | None, size: int) -> None:
    """Raise InvalidArgument for what is no DmaTarget.

    operation, iova, size: what was asked for; None where no address was.
    """
    if not isinstance(memory, DmaTarget):
        arguments = {"size": size} if iova is None else {"iova": iova, "size": size}
        raise InvalidArgument(
            errno.EINVAL,
            operation,
            arguments,
            f"{memory!r} is no memory that devices can be let reach",
            "Memory, SharedMemory and, for a BAR of another device, BarMemory are",
        )


def already_mapped(run: MappedRun, other: MappedRun, *, is_doubted: bool) -> AlreadyMapped:
    """Why run cannot be mapped: other is in its way. is_doubted: whether the kernel has not confirmed some of other."""
    how = "may be mapped still, after a call that did not come to its end" if is_doubted else "is mapped already"
    return AlreadyMapped(
        errno.EEXIST,
        "map_dma",
        {"iova": run.iova, "size": run.size},
        f"{other.iova:#_x}-{other.end - 1:#_x} {how}: {other.memory!r} at {other.offset:#_x}",
        "Unmap it first, or choose other addresses",
    )


def short_unmap(iova: int, size: int, unmapped: int, expected: int, remaining: int) -> ShortUnmap:
    """The kernel has unmapped another number of bytes than expected. remaining: how many it may still have mapped."""
    return ShortUnmap(
        errno.EIO,
        "unmap_dma",
        {"iova": iova, "size": size},
        f"the kernel unmapped {unmapped:#_x} bytes where {expected:#_x} were mapped",
        f"{remaining:#_x} bytes may be mapped still: they stay in mappings(), and it can be tried again"
        if remaining
        else "All of it has been unmapped one by one",
        remaining=remaining,
    )


def map_failure(
    error: OSError,
    run: MappedRun,
    iova: int | None,
    size: int,
    kernel: Kernel,
    *,
    held: tuple[int, int | None],
    per_user: bool = False,
    operation: str = "map_dma",
) -> VfioError:
    """The kernel's refusal in words, of the mapping of run that has size bytes at iova.

    iova: None if the kernel was to choose it. held: how many mappings were made through this object and are there, and
    how many there may be in all; None if that is not known. per_user: whether pinned memory may be charged to the user
    for all of the user's processes together, as an iommufd charges it. operation: what was asked for.
    """
    code = error.errno or errno.EIO
    arguments = {"size": size} if iova is None else {"iova": iova, "size": size}
    before = 0 if iova is None else iova - run.iova
    if known := run.memory.refusal(code):
        return MemoryUnavailable(code, operation, arguments, *known)

    def refusal(kind: type[VfioError], meaning: str, advice: str) -> VfioError:
        return kind(code, operation, arguments, meaning, advice)

    match code:
        case errno.ENOSPC:
            made = replace(run, size=before).mappings if before else 0
            return refusal(MappingLimitReached, _limit_reached(*held), _fitting_blocks(run, made))
        case errno.EEXIST:
            return refusal(
                AlreadyMapped,
                "something that was not mapped through this object is mapped there already",
                "Another user of the same descriptor has mapped it: agree on addresses, or unmap_everything()",
            )
        case errno.ENOMEM:
            lock = memlock_if_known(kernel)
            if lock is not None and not lock.allows(size):
                return refusal(
                    MemlockExceeded,
                    f"RLIMIT_MEMLOCK is {lock.limit:#_x} bytes, {lock.charged:#_x} of them are charged, and "
                    f"{size:#_x} more are needed (a page that is mapped twice is charged twice)",
                    f"Raise it to {lock.charged + run.size:#_x} or more: ulimit -l, LimitMEMLOCK= or prlimit --memlock",
                )
            if per_user and lock is not None and lock.limit is not None and not lock.exempt:
                return refusal(
                    MemlockExceeded,
                    f"{size:#_x} bytes more are needed; RLIMIT_MEMLOCK is {lock.limit:#_x} for what all processes of "
                    "this user have pinned through iommufd and io_uring together, a sum that the kernel shows nowhere",
                    "Raise it: ulimit -l, LimitMEMLOCK= or prlimit --memlock; or, as root, have the process charged: "
                    "Iommufd.rlimit_mode",
                )
            is_populated = run.memory.is_populated(run.offset + before, size)
            return refusal(
                MemoryUnavailable,
                "no memory left to pin the pages, or for the IOMMU's page tables",
                "Free memory, or raise this memory cgroup's limit"
                if is_populated
                else "Populate the memory first, which says what is missing; or raise this memory cgroup's limit",
            )
        case errno.EFAULT if run.memory.is_populated(run.offset + before, size):
            return refusal(
                MemoryUnavailable,
                "every page of it is there, and the kernel does not pin them for devices with this access",
                "Memory of kind MEMFD, or a file of tmpfs or hugetlbfs, can be pinned; a shared file of a disk can be "
                "read by devices only (Linux 6.5 and later)",
            )
        case errno.EFAULT:
            return refusal(
                MemoryUnavailable,
                "the pages cannot be pinned: not populated and none to be had, or not accessible as asked",
                "Populate the memory first, which says what is missing",
            )
        case errno.EINVAL if operation == "map_dma":
            # The layout was asked for again: see MappingSpace.
            return refusal(
                OutsideIovaRanges,
                "it lies inside iova_ranges, and the IOMMU's driver cannot map it all the same",
                "The kernel's log may say more: dmesg",
            )
        case errno.EINVAL | errno.EOVERFLOW | errno.EADDRINUSE:
            return refusal(
                OutsideIovaRanges,
                "the IOMMU reserves some of it, or cannot map it with its page sizes",
                "Choose addresses inside iova_ranges",
            )
        case errno.EOPNOTSUPP:
            return refusal(
                VfioError, "the kernel does not pin this kind of memory for devices", "Use memory that is no DAX file"
            )
        case errno.EINTR:
            return refusal(VfioError, "a fatal signal came while the pages were being charged", "")
        case _:
            return refusal(
                VfioError,
                f"the kernel or the IOMMU driver refused ({os.strerror(code)})",
                "The kernel's log may say more: dmesg",
            )


def _limit_reached(made: int, limit: int | None) -> str:
    """That there is no room for another mapping. made: how many are this object's. limit: how many there may be."""
    source = "(vfio_iommu_type1.dma_entry_limit)"
    if made == limit:
        return f"the container holds {made} mappings, its limit since it was opened {source}"
    most = "as many mappings as it may since it was opened" if limit is None else f"{limit} mappings, its limit"
    return f"the container holds {most} {source}: {made} were made through this object, others by other users of it"


def unmap_failure(error: OSError, arguments: Mapping[str, object]) -> VfioError:
    """The kernel's refusal to unmap, in words. arguments: with what the caller asked for it."""
    code = error.errno or errno.EIO
    if code in (errno.EBUSY, errno.EDEADLK):
        meaning = "another user of the address space is mapping, unmapping or copying there just now"
        advice = "Have one thread or process change these addresses at a time"
    else:
        meaning = f"the kernel refused, and nothing was unmapped ({os.strerror(code)})"
        advice = "What is mapped stays so: try again, or close the address space"
    return VfioError(code, "unmap_dma", arguments, meaning, advice)


def unproven_unmap(error: VfioError, restored: int, left: int) -> VfioError:
    """A refusal to unmap, error, that was not the whole truth. restored: how many bytes had gone all the same and are
    mapped again. left: of how many it is not known whether they are mapped."""
    meaning = error.meaning
    if restored:
        meaning = f"the kernel refused, but {restored:#_x} bytes had gone; they are mapped again"
    if left:
        meaning = f"the kernel refused, and does not tell either whether {left:#_x} bytes are mapped still"
    advice = "They stay in mappings() and are in unconfirmed(): try again, or close the address space"
    return VfioError(error.errno or errno.EIO, error.operation, error.arguments, meaning, advice if left else "")


def _fitting_blocks(run: MappedRun, left: int) -> str:
    """Advice on the size of blocks that run needs if only left more mappings are taken."""
    raise_it = "raise the limit and open a new container"
    if not left or run.granularity is None:
        return f"Larger blocks need fewer mappings; or {raise_it}"
    block = run.granularity
    while replace(run, granularity=block).mappings > left:
        block *= 2
    return f"It has {left} left: these {run.size:#_x} bytes fit with blocks of {block:#_x} or more; or {raise_it}"


def _nearest(run: MappedRun, page_size: int, iova_ranges: tuple[IovaRange, ...]) -> str:
    """Advice on the address nearest to the run's that has room for it."""
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
