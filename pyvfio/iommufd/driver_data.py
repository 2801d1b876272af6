"""DriverData: what is handed to an IOMMU's driver as it is, in structs of linux/iommufd.h that differ by IOMMU."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from pyvfio.abi import iommufd as abi

_EVERYTHING = (1 << 64) - 1


class DriverData(Protocol):
    """A struct for the driver of an IOMMU. RawData can be any of them."""

    @property
    def type(self) -> int:
        """The number that linux/iommufd.h has for the kind of struct."""

    def __bytes__(self) -> bytes:
        """The struct."""


@dataclass(frozen=True, slots=True)
class RawData:
    """A struct that this library has no class for.

    type: the number that linux/iommufd.h has for the kind of struct. data: the bytes of the struct.
    """

    type: int
    data: bytes = b""

    def __bytes__(self) -> bytes:
        return self.data


class VtdStage1Flags(enum.IntFlag):
    """Fields of the guest's PASID entry; the values of IOMMU_VTD_S1_*.

    SRE: supervisor requests are allowed. EAFE: the extended access flag is used. WPE: write protection holds for
    supervisors too.
    """

    SRE = abi.IOMMU_VTD_S1_SRE
    EAFE = abi.IOMMU_VTD_S1_EAFE
    WPE = abi.IOMMU_VTD_S1_WPE


_NO_FLAGS = VtdStage1Flags(0)


@dataclass(frozen=True, slots=True)
class VtdStage1:
    """Intel: the guest's first-stage page table. Source: iommu_hwpt_vtd_s1.

    address: where its top level is in the guest's memory. address_width: how many bits of an address it translates.
    flags: of the guest's PASID entry.
    """

    address: int
    address_width: int
    flags: VtdStage1Flags = _NO_FLAGS
    type: ClassVar[int] = abi.IOMMU_HWPT_DATA_VTD_S1

    def __bytes__(self) -> bytes:
        return bytes(abi.iommu_hwpt_vtd_s1(flags=self.flags, pgtbl_addr=self.address, addr_width=self.address_width))


@dataclass(frozen=True, slots=True)
class ArmSmmuv3Stage1:
    """Arm: the guest's stream table entry. Source: iommu_hwpt_arm_smmuv3.

    entry: its first two words of 64 bits.
    """

    entry: tuple[int, int]
    type: ClassVar[int] = abi.IOMMU_HWPT_DATA_ARM_SMMUV3

    def __bytes__(self) -> bytes:
        return _words(self.entry)


@dataclass(frozen=True, slots=True)
class AmdGuest:
    """AMD: the guest's device table entry. Source: iommu_hwpt_amd_guest.

    entry: its four words of 64 bits.
    """

    entry: tuple[int, int, int, int]
    type: ClassVar[int] = abi.IOMMU_HWPT_DATA_AMD_GUEST

    def __bytes__(self) -> bytes:
        return _words(self.entry)


@dataclass(frozen=True, slots=True)
class VtdInvalidation:
    """Intel: forget the translations of a range of addresses. Source: iommu_hwpt_vtd_s1_invalidate.

    address: where the range begins. pages: how many pages of 4 KiB it has. is_leaf: forget only what the last level of
    the page table says.
    """

    address: int
    pages: int
    is_leaf: bool = False
    type: ClassVar[int] = abi.IOMMU_HWPT_INVALIDATE_DATA_VTD_S1

    @classmethod
    def everything(cls) -> Self:
        """Forget all translations."""
        return cls(0, _EVERYTHING)

    def __bytes__(self) -> bytes:
        flags = abi.IOMMU_VTD_INV_FLAGS_LEAF if self.is_leaf else 0
        return bytes(abi.iommu_hwpt_vtd_s1_invalidate(addr=self.address, npages=self.pages, flags=flags))


@dataclass(frozen=True, slots=True)
class ArmSmmuv3Invalidation:
    """Arm: a command of the guest's command queue. Source: iommu_viommu_arm_smmuv3_invalidate.

    command: its two words of 64 bits.
    """

    command: tuple[int, int]
    type: ClassVar[int] = abi.IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3

    def __bytes__(self) -> bytes:
        return _words(self.command)


def _words(words: tuple[int, ...]) -> bytes:
    """The words of 64 bits in little-endian order, as the hardware reads them."""
    return b"".join(word.to_bytes(8, "little") for word in words)
