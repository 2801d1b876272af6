"""HardwareInfo: what an iommufd tells about the IOMMU behind a device."""

from __future__ import annotations

import ctypes
import enum
import errno
from dataclasses import dataclass

from pyvfio.abi import iommufd as abi
from pyvfio.iommufd.iommufd import Iommufd


class HardwareCapabilities(enum.IntFlag):
    """What the IOMMU can do for the device; the values of IOMMU_HW_CAP_*.

    DIRTY_TRACKING: note which pages the device writes. PCI_PASID_EXEC, PCI_PASID_PRIV: take requests with a PASID to
    execute, and as a supervisor. PCI_ATS_NOT_SUPPORTED: the device may not cache translations.
    """

    DIRTY_TRACKING = abi.IOMMU_HW_CAP_DIRTY_TRACKING
    PCI_PASID_EXEC = abi.IOMMU_HW_CAP_PCI_PASID_EXEC
    PCI_PASID_PRIV = abi.IOMMU_HW_CAP_PCI_PASID_PRIV
    PCI_ATS_NOT_SUPPORTED = abi.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED


@dataclass(frozen=True, slots=True)
class HardwareInfo:
    """The IOMMU behind a device, as its driver describes it.

    type: an IOMMU_HW_INFO_TYPE_*; 0 where the driver describes it no further. data: the bytes of the struct of that
    type. capabilities: what the IOMMU can do for the device. max_pasid_log2: how many bits of PASID the device takes;
    0 for a device without PASIDs.
    """

    type: int
    data: bytes
    capabilities: HardwareCapabilities
    max_pasid_log2: int


def hardware_info(iommufd: Iommufd, device_id: int, kind: int = abi.IOMMU_HW_INFO_TYPE_DEFAULT) -> HardwareInfo:
    """What the IOMMU behind the device of this number can do.

    kind: an IOMMU_HW_INFO_TYPE_*; by default the IOMMU chooses one. Raises VfioError: EOPNOTSUPP if there is no struct
    of that kind, or no IOMMU. Source: IOMMU_GET_HW_INFO.
    """
    meaning = "the IOMMU has no such struct" if kind else "there is no IOMMU behind the device"
    advice = "Ask without a kind; before Linux 6.17 there is no choice" if kind else ""
    arguments = {"device": device_id, **({"kind": kind} if kind else {})}
    size = 0
    while True:
        buffer = ctypes.create_string_buffer(max(size, 1))
        argument = abi.iommu_hw_info(dev_id=device_id, data_len=size, data_uptr=ctypes.addressof(buffer) if size else 0)
        if kind:
            argument.flags, argument.in_data_type = abi.IOMMU_HW_INFO_FLAG_INPUT_TYPE, kind
        meanings = {errno.EOPNOTSUPP: (meaning, advice)}
        iommufd.call(abi.IOMMU_GET_HW_INFO, argument, "hardware info", arguments, meanings)
        if argument.data_len <= size:
            break
        # The kernel cuts what does not fit, and tells how long it is.
        size = argument.data_len
    return HardwareInfo(
        argument.out_data_type,
        buffer.raw[: argument.data_len],
        HardwareCapabilities(argument.out_capabilities),
        argument.out_max_pasid_log2,
    )
