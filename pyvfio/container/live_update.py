"""Live update: a program replaced by another while its devices go on with their DMA (Linux 5.12).

The old one calls invalidate_vaddrs() and passes the container's descriptor on, with those of its groups, devices and
memory files. The new one makes a Container of it with from_fd(), maps the files as Memory, and tells with
update_vaddr() where each is now. type1 only; an iommufd has change_process() instead.
Source: drivers/vfio/vfio_iommu_type1.c, VFIO_UPDATE_VADDR.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from pyvfio.abi import vfio
from pyvfio.container.container import Container
from pyvfio.dma import Access, MappedRun, check_map_arguments
from pyvfio.errors import NotMapped, VfioError
from pyvfio.explain import explain
from pyvfio.memory import Memory


def invalidate_vaddrs(container: Container) -> int:
    """Let every mapping live on without this process's addresses; return the bytes concerned.

    Pages stay pinned and devices go on with them. Until update_vaddr() has given every mapping an address again, no
    group can be attached. Raises VfioError where the kernel has no such, or if it was done already; nothing has
    changed then. Source: VFIO_DMA_UNMAP_FLAG_VADDR.
    """
    with container._lock:
        _require_updates(container, "invalidate_vaddrs")
        flags = vfio.VFIO_DMA_UNMAP_FLAG_VADDR | vfio.VFIO_DMA_UNMAP_FLAG_ALL
        argument = vfio.vfio_iommu_type1_dma_unmap(flags=flags)
        try:
            container.kernel.ioctl(container.fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)
        except OSError as error:
            raise explain(error, "invalidate_vaddrs", {}, _INVALIDATE) from error
        return argument.size


def update_vaddr(
    container: Container, iova: int, memory: Memory, offset: int, size: int, *, granularity: int | None = None
) -> None:
    """Tell where in this process the memory under existing mappings is now; they become this process's.

    iova, size and granularity are as they were mapped, and memory is the same: a file that was passed on. They are in
    mappings() then. A failure leaves those from the one it names on without an address.
    Raises NotMapped where no such mapping waits for one, MemlockExceeded. Source: VFIO_DMA_MAP_FLAG_VADDR.
    """
    run = MappedRun(iova, size, memory, offset, Access.READ_WRITE, granularity)
    with container._lock:
        _require_updates(container, "update_vaddr")
        layout = container._layout("update_vaddr")
        memory._check_open()
        check_map_arguments(run, layout.page_sizes[0], layout.iova_ranges)
        known = container._table.parts(iova, size)
        _map_vaddrs(container, run)
        container._table.remove(iova, size)
        container._table.add(replace(run, access=known[0].access) if known else run)


def _map_vaddrs(container: Container, run: MappedRun) -> None:
    argument = vfio.vfio_iommu_type1_dma_map(flags=vfio.VFIO_DMA_MAP_FLAG_VADDR)
    for part in run.parts():
        argument.size = part.step
        for iova in part:
            argument.iova, argument.vaddr = iova, run.memory.address + run.offset + iova - run.iova
            try:
                container.kernel.ioctl(container.fd, vfio.VFIO_IOMMU_MAP_DMA, argument)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINVAL):
                    arguments = {"iova": iova, "size": part.step}
                    meaning = "no mapping of exactly these addresses waits for one of this process"
                    advice = "Tell them as they were mapped, after invalidate_vaddrs()"
                    raise NotMapped(error.errno, "update_vaddr", arguments, meaning, advice) from error
                raise container._map_failure(error, run, iova, part.step, container.mapping_count) from error


def _require_updates(container: Container, operation: str) -> None:
    container._layout(operation)
    if not container.kernel.ioctl(container.fd, vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_UPDATE_VADDR):
        meaning = "this container cannot: it is iommufd's compatibility, has mediated devices, or the kernel is old"
        raise VfioError(errno.EOPNOTSUPP, operation, {}, meaning, "An iommufd has change_process() instead")


_INVALIDATE = {
    errno.EINVAL: ("some addresses are invalid already", "Nothing has changed; update_vaddr() them first"),
    errno.EBUSY: (
        "a mediated device, which pins by address, is in the container",
        "Close it first",
    ),
}
