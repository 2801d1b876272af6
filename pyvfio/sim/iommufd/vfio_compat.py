"""The container ioctls that an iommufd answers. Source: drivers/iommu/iommufd/vfio_compat.c."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Mapping
from typing import Any

from pyvfio.abi import iommufd as abi
from pyvfio.abi import vfio
from pyvfio.sim.capabilities import capability_chain
from pyvfio.sim.iommufd.command import Command
from pyvfio.sim.iommufd.context import IommufdContext
from pyvfio.sim.iommufd.io_pagetable import READ, WRITE, IoasState
from pyvfio.sim.iommufd.pages import Source
from pyvfio.sim.process import Process, UserMemory, fail

_LAST = (1 << 64) - 1
_NO_LIMIT = 0xFFFF_FFFF


class VfioCompatibility:
    """A container's ioctls, on the compatible address space of an iommufd, and the command that chooses that."""

    def __init__(self, iommufd: IommufdContext) -> None:
        self._iommufd = iommufd
        self.commands: Mapping[int, Command[Any]] = {
            abi.IOMMU_VFIO_IOAS: Command(abi.iommu_vfio_ioas, 12, self._vfio_ioas),
        }

    def ioctl(self, request: int, user: UserMemory) -> int:
        match request:
            case vfio.VFIO_GET_API_VERSION:
                return vfio.VFIO_API_VERSION
            case vfio.VFIO_CHECK_EXTENSION:
                return self._check_extension(user.value)
            case vfio.VFIO_SET_IOMMU:
                return self._set_iommu(user.value, user.process)
            case vfio.VFIO_IOMMU_GET_INFO:
                return self._get_info(user)
            case vfio.VFIO_IOMMU_MAP_DMA:
                return self._map(user)
            case vfio.VFIO_IOMMU_UNMAP_DMA:
                return self._unmap(user)
            case _:
                raise fail(errno.ENOTTY)

    def _vfio_ioas(self, user: UserMemory, command: abi.iommu_vfio_ioas) -> None:
        match command.op:
            case abi.IOMMU_VFIO_IOAS_GET:
                user.write(struct.pack("<I", self._ioas().id), 4)
            case abi.IOMMU_VFIO_IOAS_SET:
                self._iommufd.compatible = self._iommufd.get(command.ioas_id, IoasState)
            case abi.IOMMU_VFIO_IOAS_CLEAR:
                self._iommufd.compatible = None
            case _:
                raise fail(errno.EOPNOTSUPP)

    def _ioas(self) -> IoasState:
        if self._iommufd.compatible is None:
            raise fail(errno.ENODEV)
        return self._iommufd.compatible

    def _check_extension(self, extension: int) -> int:
        if extension == vfio.VFIO_DMA_CC_IOMMU:
            self._ioas()
            return int(self._iommufd.machine.iommu_model.coherent)
        if extension == vfio.VFIO_NOIOMMU_IOMMU:
            return 1
        offered = extension in (vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU, vfio.VFIO_UNMAP_ALL)
        return int(offered and not self._iommufd.is_noiommu)

    def _set_iommu(self, kind: int, process: Process) -> int:
        if kind == vfio.VFIO_NOIOMMU_IOMMU and self._iommufd.is_noiommu:
            process.require_raw_io()
            return 0
        if kind not in (vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU) or self._iommufd.is_noiommu:
            raise fail(errno.EINVAL)
        ioas = self._ioas()
        if kind == vfio.VFIO_TYPE1_IOMMU:
            if ioas.large_pages and ioas.domains and ioas.areas:
                raise fail(errno.EINVAL)
            ioas.large_pages = False
        return 0

    def _get_info(self, user: UserMemory) -> int:
        argsz = user.u32(0)
        user.read(16)
        if argsz < 16:
            raise fail(errno.EINVAL)
        ioas = self._ioas()
        ranges = ioas.ranges()
        head = ctypes.sizeof(vfio.vfio_iommu_type1_info)
        chain = capability_chain(
            head,
            [
                (vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, struct.pack("<I", _NO_LIMIT)),
                (
                    vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
                    1,
                    struct.pack("<II", len(ranges), 0) + b"".join(struct.pack("<QQ", *ends) for ends in ranges),
                ),
            ],
            8,
        )
        fits = argsz >= head + len(chain)
        if fits:
            user.write(chain, head)
        page_sizes = self._iommufd.machine.page_sizes if ioas.domains else _LAST & ~0xFFF
        flags = vfio.VFIO_IOMMU_INFO_PGSIZES | vfio.VFIO_IOMMU_INFO_CAPS
        info = struct.pack("<IIQII", head + len(chain), flags, page_sizes, head if fits else 0, 0)
        user.write(info[: min(argsz, head)])
        return 0

    def _map(self, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_iommu_type1_dma_map, 32)
        if argument.argsz < 32 or argument.flags & ~(READ | WRITE):
            raise fail(errno.EINVAL)
        source = Source(user.process, argument.vaddr, argument.size)
        ioas = self._ioas()
        pages = self._iommufd.page_set(source, writable=bool(argument.flags & WRITE))
        ioas.map(argument.iova, pages, argument.flags)
        return 0

    def _unmap(self, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_iommu_type1_dma_unmap, 24)
        if argument.argsz < 24 or argument.flags & ~vfio.VFIO_DMA_UNMAP_FLAG_ALL:
            raise fail(errno.EINVAL)
        ioas = self._ioas()
        iova, size = argument.iova, argument.size
        if argument.flags:
            if iova or size:
                raise fail(errno.EINVAL)
            gone, code = ioas.unmap(0, _LAST)
        else:
            if not ioas.large_pages and size:
                ioas.cut(iova)
                ioas.cut(iova + size)
            try:
                gone, code = ioas.unmap_range(iova, size)
            except OSError as error:
                gone, code = 0, error.errno or errno.EINVAL
        # Written back even when it failed half-way.
        user.write(struct.pack("<Q", gone), 16)
        if code:
            raise fail(code)
        return 0
