"""open_space(): an address space for devices that are bound to VFIO."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pyvfio.container import Container
from pyvfio.device import Device
from pyvfio.errors import InvalidArgument
from pyvfio.iommufd import Ioas
from pyvfio.kernel import Kernel
from pyvfio.sysfs import full_address, named_address
from virtiomem.spaces.open_space import OpenSpace, SpaceKind


@dataclass(frozen=True, slots=True)
class SpaceOptions:
    """An address space to open.

    devices: PCI addresses, or names of network interfaces, of devices that are bound to VFIO; all share the address
    space. kind: what it is of. name: what the host calls it; empty: by its first device.
    """

    devices: Sequence[str]
    kind: SpaceKind = SpaceKind.CONTAINER
    name: str = ""

    @classmethod
    def of_devices(cls, devices: Sequence[str], *, one: bool, iommufd: bool) -> tuple[SpaceOptions, ...]:
        """An address space for each device; with one, one for all of them. iommufd: whether they are an iommufd's."""
        kind = SpaceKind.IOMMUFD if iommufd else SpaceKind.CONTAINER
        groups = ([devices] if devices else []) if one else [[device] for device in devices]
        return tuple(cls(tuple(group), kind) for group in groups)


def space_name(options: SpaceOptions, kernel: Kernel) -> str:
    """What the address space is called that open_space() opens; empty if it would be refused."""
    if options.name or not options.devices:
        return options.name
    return full_address(named_address(kernel, options.devices[0]))


def open_space(options: SpaceOptions, kernel: Kernel) -> OpenSpace:
    """Open an address space with its devices. Nothing is mapped in it.

    Raises InvalidArgument without a device, and what Container, Ioas and their open_device() raise, such as VfioError
    where the host has no iommufd, or gives its devices no nodes of their own; nothing stays open then.
    """
    if not options.devices:
        raise InvalidArgument(errno.EINVAL, "open address space", meaning="no device is named for it")
    addresses = [full_address(named_address(kernel, device)) for device in options.devices]
    with ExitStack() as stack:
        space: Container | Ioas
        if options.kind is SpaceKind.IOMMUFD:
            space = stack.enter_context(Ioas(kernel=kernel))
        else:
            space = stack.enter_context(Container(kernel=kernel))
        devices: list[Device] = [space.open_device(address) for address in addresses]
        ioas_id = space.id if isinstance(space, Ioas) else None
        name = options.name or addresses[0]
        return OpenSpace(name, space, stack.pop_all(), kind=options.kind, devices=devices, ioas_id=ioas_id)
