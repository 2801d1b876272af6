"""Which groups and devices are open: a device is opened through its group or by its own node, not both."""

from __future__ import annotations

import errno
from collections import Counter

from pyvfio.sim.devices import VFIO_DRIVER, PciFunction
from pyvfio.sim.machine import Machine
from pyvfio.sim.process import File, fail
from pyvfio.sim.vfio.device import DeviceState
from pyvfio.sim.vfio.features import VfToken

_SECONDS_BETWEEN_REQUESTS = 10


class Ownership:
    """The open groups and devices of one machine. Raises OSError as the kernel's core does."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._functions = machine.functions
        self._devices: dict[str, DeviceState] = {}
        # By group: its file while that or a device that was opened through it is open, and how many nodes of its
        # devices are bound.
        self._groups: dict[int, File] = {}
        self._nodes: Counter[int] = Counter()
        self._vf_tokens: dict[str, VfToken] = {}
        self._leaving: Counter[str] = Counter()

    def opened_device(self, address: str) -> DeviceState | None:
        """None if nobody has it open."""
        device = self._devices.get(address)
        return device if device and device.opens else None

    def eventfd_written(self, fd: int) -> None:
        """A program has written to an eventfd, which devices may wait for."""
        for device in list(self._devices.values()):
            if device.opens:
                device.eventfd_written(fd)

    # Groups.

    def take_group(self, number: int, file: File) -> None:
        """A group is being opened. Raises OSError(EBUSY) if it is open, or a device of it by its own node."""
        if self._nodes[number] or number in self._groups:
            raise fail(errno.EBUSY)
        self._groups[number] = file

    def give_group_back(self, number: int) -> None:
        """Neither the group nor a device that was opened through it is open any more."""
        del self._groups[number]

    def group_of(self, file: File) -> int | None:
        """The number of the group that a file is of; None if it is no group's."""
        return next((number for number, taken in self._groups.items() if taken is file), None)

    def block_group(self, address: str) -> None:
        """A device's node is being bound. Raises OSError(EBUSY) if the device's group is open."""
        number = self._functions[address].group
        if number in self._groups:
            raise fail(errno.EBUSY)
        self._nodes[number] += 1

    def unblock_group(self, address: str) -> None:
        """A device's node is bound no more."""
        self._nodes[self._functions[address].group] -= 1

    # Devices.

    def new_device(self, function: PciFunction) -> DeviceState:
        """A device that nobody has opened yet."""
        return DeviceState(self._machine, function, self.vf_token(function))

    def hand_out(self, device: DeviceState) -> None:
        """The first descriptor of a device is being opened. Raises OSError(EINVAL) if the device is open already."""
        if self.opened_device(device.address):
            raise fail(errno.EINVAL)
        self._devices[device.address] = device

    def release_device(self, address: str) -> None:
        """Its driver is to let go of a device: ask the program that has it open to close it, and wait until it has.

        The program is asked again every ten seconds. Meanwhile nobody opens the device anew. Called with the machine's
        lock held, which is let go while it waits. Source: drivers/vfio/vfio_main.c, vfio_unregister_group_dev.
        """
        self._leaving[address] += 1
        try:
            while device := self.opened_device(address):
                device.interrupts.request()
                self._machine.changed.wait(_SECONDS_BETWEEN_REQUESTS)
        finally:
            self._leaving[address] -= 1

    def is_leaving(self, address: str) -> bool:
        """Whether the driver of a device is being taken off."""
        return self._leaving[address] > 0

    def device_closed(self) -> None:
        """The last descriptor of a device may have been closed."""
        self._machine.changed.notify_all()

    def check_vf_token(self, function: PciFunction, device: DeviceState, token: bytes | None) -> None:
        """Let a program that knows a token open the device, or set the token of a physical function.

        Raises OSError: EACCES for a wrong token, EINVAL for one where none is taken.
        Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_match_token_uuid.
        """
        expected = device.features.vf_token
        if function.physical_function is not None:
            physical = self._functions.get(function.physical_function)
            if physical is None or physical.driver != VFIO_DRIVER:
                if token is not None:
                    raise fail(errno.EINVAL)
            elif token != self.vf_token(physical).value:
                raise fail(errno.EACCES)
        elif expected is None:
            if token is not None:
                raise fail(errno.EINVAL)
        elif any(self.opened_device(other.address) for other in self._virtual_functions(function)):
            if token != expected.value:
                raise fail(errno.EACCES)
        elif token is not None:
            expected.value = token

    def vf_token(self, physical: PciFunction) -> VfToken:
        """The token of a physical function, which is kept while the function is closed."""
        return self._vf_tokens.setdefault(physical.address, VfToken())

    def _virtual_functions(self, physical: PciFunction) -> list[PciFunction]:
        return [function for function in self._functions.values() if function.physical_function == physical.address]
