"""Answers of the kernel to ioctls and reads: structs with chains of capabilities behind them, event records."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from pyvfio import VfioError
from pyvfio.abi import iommufd as iommufd_abi
from pyvfio.abi import vfio
from pyvfio.container.info import iommu_info
from pyvfio.device.open_device import device_info
from pyvfio.device.region_info import region_info
from pyvfio.iommufd.fault_queue import page_faults
from pyvfio.iommufd.virtual_events import virtual_events
from pyvfio.kernel import LinuxKernel, chain
from tests.fuzz.parser import Parser


class _Answering(LinuxKernel):
    """Answers each ioctl with data."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    def ioctl(self, fd: int, request: int, argument: Any = 0, /) -> int:
        del fd, request
        size = min(ctypes.sizeof(argument), len(self._data))
        ctypes.memmove(argument, self._data, size)
        return 0


def _chain(data: bytes) -> None:
    for capability in chain(data, 16):
        capability.read(vfio.vfio_device_info_cap_pci_atomic_comp)
        head = capability.read(vfio.vfio_region_info_cap_sparse_mmap)
        capability.read_array(vfio.vfio_region_sparse_mmap_area, ctypes.sizeof(head), head.nr_areas)


def _of(struct: type[ctypes.Structure], parse: Callable[[Any, bytes], object]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        data = data.ljust(ctypes.sizeof(struct), b"\0")
        parse(struct.from_buffer_copy(data), data)

    return run


_EVENTS = ctypes.sizeof(iommufd_abi.iommu_vevent_arm_smmuv3)

ANSWERS = (
    Parser("capability-chain", _chain, (VfioError,)),
    Parser("iommu-info", lambda data: iommu_info(_Answering(data), 0), (VfioError,)),
    Parser("region-info", _of(vfio.vfio_region_info, region_info), (VfioError,)),
    Parser("device-info", _of(vfio.vfio_device_info, device_info), (VfioError,)),
    Parser("page-faults", page_faults, (VfioError,)),
    Parser("virtual-events", lambda data: virtual_events(data, _EVENTS), (VfioError,)),
)
