"""Open a device as any program opens it, to look at it or to write to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio.container import Container
from pyvfio.device import Device, PciCommand, Region, RegionIndex
from pyvfio.errors import InvalidArgument
from pyvfio.iommufd import Ioas
from pyvfio.kernel import Kernel, exists, text_or_empty
from pyvfio.sysfs import DEVICES, PciDevice, pci_devices
from pyvfio.texts import words_of

_CONTAINER = "/dev/vfio/vfio"
_SHARED = ("slot", "bus")
"""The methods that reset all functions of a bus."""


@contextmanager
def opened(kernel: Kernel, address: str) -> Iterator[Device]:
    """Open the device at an address for the block that follows, and close it at the block's end.

    It is opened through a container, or through an iommufd if the kernel has no containers. what_opening_does() says
    whether that resets it. Raises what Container.open_device() raises.
    """
    if exists(kernel, _CONTAINER) or not exists(kernel, "/dev/iommu"):
        with Container(kernel=kernel) as container:
            yield container.open_device(address)
    else:
        with Ioas(kernel=kernel) as space:
            yield space.open_device(address)


def reset_methods(kernel: Kernel, address: str) -> list[str] | None:
    """How the host can reset the function, "flr" or "bus", in the order in which it tries; empty if it cannot.

    None if it can, but the kernel does not say how. Source: in sysfs the function's reset_method, since Linux 5.15;
    before that its file reset, which a function has that can be reset.
    """
    directory = f"{DEVICES}/{address}"
    if exists(kernel, f"{directory}/reset_method"):
        return words_of(text_or_empty(kernel, f"{directory}/reset_method"))
    return None if exists(kernel, f"{directory}/reset") else []


def what_opening_does(kernel: Kernel, address: str) -> str:
    """A sentence that says what opening a device does.

    Source: vfio_pci_core.c, vfio_pci_core_enable, _disable and vfio_pci_dev_set_try_reset.
    """
    methods = own_reset_methods(kernel, address)
    if methods != []:
        how = f" ({methods[0]})" if methods else ""
        return f"opening {address} resets it{how}, and closing it does again"
    untouched = f"{address} has no reset of its own: opening it leaves it as it is, but for DMA, which is off"
    beside = _beside(kernel, address)
    shared = [name for each in (address, *(other.address for other in beside)) for name in _shared(kernel, each)]
    if shared and all(other.has_vfio_driver for other in beside):
        others = ", ".join(other.address for other in beside)
        return f"{untouched}, and closing it resets it together with {others} ({shared[0]}), if nobody has them open"
    return untouched


def own_reset_methods(kernel: Kernel, address: str) -> list[str] | None:
    """As reset_methods(), without those that would reset another function of the same bus, too.

    The kernel looks for these methods when it finds a function, and may not have found the one beside it yet: it lists
    them, and refuses them. Source: drivers/pci/pci.c, pci_parent_bus_reset.
    """
    methods = reset_methods(kernel, address)
    if not methods or not _beside(kernel, address):
        return methods
    return [method for method in methods if method not in _SHARED]


def _shared(kernel: Kernel, address: str) -> list[str]:
    return [method for method in reset_methods(kernel, address) or () if method in _SHARED]


def _beside(kernel: Kernel, address: str) -> list[PciDevice]:
    """The other functions of the same bus."""
    bus = address.rpartition(":")[0]
    return [device for device in pci_devices(kernel) if device.address != address and device.address.startswith(bus)]


def region_index(name: str) -> int:
    """The index of a region by its name, "bar0", "config", "rom" or "vga", or by its number. Raises InvalidArgument."""
    if re.fullmatch("[0-9]{1,9}", name):
        return int(name)
    try:
        return RegionIndex[name.upper()]
    except KeyError:
        names = ", ".join(index.name.lower() for index in RegionIndex)
        raise InvalidArgument(22, f"region {name!r}", meaning=f"none of {names}, nor a number") from None


def region_of(device: Device, name: str) -> Region:
    """A region by its name, as for region_index(). The device is made to answer at its BARs, so that it can be read.

    Raises InvalidArgument for another name, and for a region that the device does not have.
    """
    region = device.region(region_index(name))
    if not region.size:
        there = [index.name.lower() for index in RegionIndex if index < device.info.num_regions and _has(device, index)]
        raise InvalidArgument(22, f"region {name}", meaning="the device has none", advice=f"It has {', '.join(there)}")
    is_bar = re.fullmatch(r"(?i)bar[0-5]|[0-5]|rom|vga", name)
    if is_bar and not device.config.command & PciCommand.MEMORY:
        device.config.command |= PciCommand.MEMORY | PciCommand.IO
    return region


def _has(device: Device, index: int) -> bool:
    try:
        return bool(device.region(index).size)
    except OSError:
        return False
