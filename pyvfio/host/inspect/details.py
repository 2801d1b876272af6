"""DeviceDetails: what only an open device tells: regions, interrupts and features as VFIO has them, and resets."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pyvfio.device import Device, DeviceFlags, InterruptIndex, MmapArea, RegionIndex
from pyvfio.errors import VfioError
from pyvfio.host.inspect.opening import opened
from pyvfio.kernel import Kernel

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RegionDetails:
    """A region of a device.

    index: which one. name: a RegionIndex's, or "REGION9" for another. size: its bytes. flags: the RegionFlags in lower
    case. mmap_areas: the parts that can be mapped.
    """

    index: int
    name: str
    size: int
    flags: tuple[str, ...]
    mmap_areas: tuple[MmapArea, ...]


@dataclass(frozen=True, slots=True)
class InterruptDetails:
    """The interrupts of one index of a device.

    index: which one. name: an InterruptIndex's, or "IRQ5" for another. count: how many vectors. flags: the
    InterruptFlags in lower case.
    """

    index: int
    name: str
    count: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CapabilityDetails:
    """A capability of a device.

    name: in linux/pci_regs.h. id: its number there. extended: whether it is in the extended list. offset: where it is
    in config space, in bytes.
    """

    name: str
    id: int
    extended: bool
    offset: int


@dataclass(frozen=True, slots=True)
class FeatureDetails:
    """A feature of a device.

    name: a Feature's. access: "get", "set" or both.
    """

    name: str
    access: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeviceDetails:
    """What an open device tells.

    can_reset: whether it can be reset alone, by VFIO_DEVICE_RESET. regions: those that have a size. interrupts: those
    that have a vector. capabilities, features: all. capabilities_unavailable: why there are no capabilities, for
    example because the device does not answer; None if they could be read.
    """

    can_reset: bool
    regions: tuple[RegionDetails, ...]
    interrupts: tuple[InterruptDetails, ...]
    capabilities: tuple[CapabilityDetails, ...]
    features: tuple[FeatureDetails, ...]
    capabilities_unavailable: str | None = None


def device_details(kernel: Kernel, address: str) -> DeviceDetails:
    """Open the device at an address for a moment, and describe it.

    Opening resets the device if it can be reset alone, and so does closing.
    Raises what Container.open_device() raises: DeviceNotBound, GroupNotViable, GroupBusy, VfioError.
    """
    with opened(kernel, address) as device:
        capabilities, unavailable = [], None
        try:
            capabilities = [*device.config.capabilities(), *device.config.extended_capabilities()]
        except VfioError as error:
            unavailable = str(error)
        return DeviceDetails(
            bool(device.info.flags & DeviceFlags.RESET),
            tuple(_regions(device)),
            tuple(_interrupts(device)),
            tuple(CapabilityDetails(each.name, each.id, each.extended, each.offset) for each in capabilities),
            tuple(FeatureDetails(feature.name, _flags(access)) for feature, access in device.features.all().items()),
            unavailable,
        )


def _regions(device: Device) -> Iterator[RegionDetails]:
    for index, region in _present(device.region, device.info.num_regions):
        if region.info.size:
            name = RegionIndex(index).name if index in list(RegionIndex) else f"REGION{index}"
            yield RegionDetails(index, name, region.info.size, _flags(region.info.flags), region.info.mmap_areas)


def _interrupts(device: Device) -> Iterator[InterruptDetails]:
    for index, interrupts in _present(device.interrupts, device.info.num_irqs):
        if interrupts.info.count:
            name = InterruptIndex(index).name if index in list(InterruptIndex) else f"IRQ{index}"
            yield InterruptDetails(index, name, interrupts.info.count, _flags(interrupts.info.flags))


def _present(get: Callable[[int], T], count: int) -> Iterator[tuple[int, T]]:
    """What get() returns for each index below count, without those that the device does not have, VGA for example."""
    for index in range(count):
        try:
            yield index, get(index)
        except VfioError:
            continue


def _flags(flags: enum.IntFlag) -> tuple[str, ...]:
    return tuple((flag.name or hex(flag)).lower() for flag in flags)
