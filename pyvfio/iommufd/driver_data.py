"""What is told to an IOMMU's driver as it stands: structs of linux/iommufd.h that differ from IOMMU to IOMMU."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from pyvfio.abi import iommufd as abi

_EVERYTHING = (1 << 64) - 1


class DriverData(Protocol):
    """type: the header's number for the kind of struct; bytes() of it is the struct. RawData is any of them."""

    @property
    def type(self) -> int: ...
    def __bytes__(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class RawData:
    """A struct that this library has no class for."""

    type: int
    data: bytes = b""

    def __bytes__(self) -> bytes:
        return self.data


class VtdStage1Flags(enum.IntFlag):
    """IOMMU_VTD_S1_*: supervisor requests, extended access flag and write protection of the PASID entry."""

    SRE = abi.IOMMU_VTD_S1_SRE
    EAFE = abi.IOMMU_VTD_S1_EAFE
    WPE = abi.IOMMU_VTD_S1_WPE


_NO_FLAGS = VtdStage1Flags(0)


@dataclass(frozen=True, slots=True)
class VtdStage1:
    """Intel: the guest's first-stage page table: the address of its top level in the guest, and the bits it translates.

    Source: iommu_hwpt_vtd_s1.
    """

    address: int
    address_width: int
    flags: VtdStage1Flags = _NO_FLAGS
    type: ClassVar[int] = abi.IOMMU_HWPT_DATA_VTD_S1

    def __bytes__(self) -> bytes:
        return bytes(abi.iommu_hwpt_vtd_s1(flags=self.flags, pgtbl_addr=self.address, addr_width=self.address_width))


@dataclass(frozen=True, slots=True)
class ArmSmmuv3Stage1:
    """Arm: the first two words of the guest's stream table entry, 64 bits each. Source: iommu_hwpt_arm_smmuv3."""

    entry: tuple[int, int]
    type: ClassVar[int] = abi.IOMMU_HWPT_DATA_ARM_SMMUV3

    def __bytes__(self) -> bytes:
        return _words(self.entry)


@dataclass(frozen=True, slots=True)
class AmdGuest:
    """AMD: the guest's device table entry, words of 64 bits. Source: iommu_hwpt_amd_guest."""

    entry: tuple[int, int, int, int]
    type: ClassVar[int] = abi.IOMMU_HWPT_DATA_AMD_GUEST

    def __bytes__(self) -> bytes:
        return _words(self.entry)


@dataclass(frozen=True, slots=True)
class VtdInvalidation:
    """Intel: forget the translations of pages of 4 KiB from address on; is_leaf: only of the last level.

    Source: iommu_hwpt_vtd_s1_invalidate.
    """

    address: int
    pages: int
    is_leaf: bool = False
    type: ClassVar[int] = abi.IOMMU_HWPT_INVALIDATE_DATA_VTD_S1

    @classmethod
    def everything(cls) -> Self:
        return cls(0, _EVERYTHING)

    def __bytes__(self) -> bytes:
        flags = abi.IOMMU_VTD_INV_FLAGS_LEAF if self.is_leaf else 0
        return bytes(abi.iommu_hwpt_vtd_s1_invalidate(addr=self.address, npages=self.pages, flags=flags))


@dataclass(frozen=True, slots=True)
class ArmSmmuv3Invalidation:
    """Arm: a command of the guest's command queue, words of 64 bits. Source: iommu_viommu_arm_smmuv3_invalidate."""

    command: tuple[int, int]
    type: ClassVar[int] = abi.IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3

    def __bytes__(self) -> bytes:
        return _words(self.command)


def _words(words: tuple[int, ...]) -> bytes:
    """Little-endian, as the hardware has them."""
    return b"".join(word.to_bytes(8, "little") for word in words)
