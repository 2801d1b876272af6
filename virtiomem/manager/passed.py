"""PassedDevices: the devices of a server that a guest drives."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pyvfio.dma import MappingSpace
from pyvfio.errors import DeviceBusy, InvalidArgument
from pyvfio.kernel import Kernel
from pyvfio.sysfs import full_address, named_address
from pyvfio.vfio_user import GuestMemory
from virtiomem.passthrough import OutsideRegions, PassedDevice, PassthroughOptions, Regions
from virtiomem.spaces import OpenSpace


class PassedDevices:
    """Those of one guest. What they have in common of its memory is mapped once in each address space."""

    def __init__(self, regions: Regions) -> None:
        """regions: where the guest has its virtio-mem regions just now."""
        self._regions = regions
        self._devices: tuple[PassedDevice, ...] = ()
        self._memories: dict[OpenSpace, GuestMemory] = {}

    @property
    def devices(self) -> tuple[PassedDevice, ...]:
        """In the order in which they came."""
        return self._devices

    def add(
        self,
        options: PassthroughOptions,
        spaces: Sequence[OpenSpace],
        kernel: Kernel,
        changed: Callable[[], object],
        say: Callable[[str], object],
    ) -> PassedDevice:
        """Serve a device that is open in one of spaces. Raises as Server.pass_device()."""
        address = full_address(named_address(kernel, options.device))
        operation = f"pass {options.device}"
        if any(passed.device.address == address for passed in self._devices):
            raise InvalidArgument(errno.EEXIST, operation, meaning="a guest has it already")
        for space in spaces:
            for device in space.devices:
                if device.address == address and isinstance(space.space, MappingSpace):
                    memory = self._memories.get(space) or GuestMemory(space.space, OutsideRegions(self._regions))
                    passed = PassedDevice(
                        options, device, memory, self._regions, kernel=kernel, changed=changed, say=say
                    )
                    self._memories[space] = memory
                    self._devices = (*self._devices, passed)
                    return passed
        raise InvalidArgument(errno.ENODEV, operation, meaning="it is open in no address space of this server")

    def refresh(self) -> None:
        """The guest's regions are others now."""
        for memory in self._memories.values():
            memory.refresh()

    def require_free(self, space: OpenSpace) -> None:
        """Raises DeviceBusy if a device that is open in space is passed."""
        if busy := [passed for passed in self._devices if passed.device in space.devices]:
            raise DeviceBusy(
                errno.EBUSY,
                f"remove address space {space.name}",
                meaning=f"{busy[0].device.address} is passed to a guest, until this server ends",
            )

    def close(self) -> None:
        """Serve none any more: each is stopped, and what it could reach of the guest's boot memory is unmapped."""
        devices, self._devices = self._devices, ()
        with ExitStack() as closing:
            for device in devices:
                closing.callback(device.close)
