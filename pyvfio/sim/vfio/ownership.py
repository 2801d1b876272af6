"""Which groups and devices are in use, and by whom: a device is opened through its group or by its own node."""

from __future__ import annotations

import errno
import uuid
from collections import Counter
from typing import TYPE_CHECKING

from pyvfio.sim.process.user import fail
from pyvfio.sim.sysfs import VFIO_DRIVER, PciFunction
from pyvfio.sim.vfio.cdev import CdevState
from pyvfio.sim.vfio.device import DeviceState
from pyvfio.sim.vfio.features import VfToken
from pyvfio.sim.vfio.group import GroupState

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.main import IommufdState
    from pyvfio.sim.kernel import SimKernel
    from pyvfio.sim.process.process import Process


class Ownership:
    """Of the functions of one machine. Raises OSError as the kernel's core does."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel
        self._functions = kernel.functions
        self._sysfs = kernel.sysfs
        self._groups: dict[int, GroupState] = {}
        self._devices: dict[str, DeviceState] = {}
        # By group: devices open by their own nodes, and the iommufd that has some of them with how many.
        self._nodes: Counter[int] = Counter()
        self._claims: dict[int, tuple[IommufdState, int]] = {}
        self._vf_tokens: dict[str, VfToken] = {}

    def opened_device(self, address: str) -> DeviceState | None:
        """None if nobody has it open."""
        device = self._devices.get(address)
        return device if device and device.opens else None

    def opened_devices(self) -> list[DeviceState]:
        return [device for device in self._devices.values() if device.opens]

    def open_group(self, node: str, number: int, process: Process) -> GroupState:
        """Raises OSError(ENOENT) without a node, OSError(EBUSY) if the group or a device of it is open."""
        if not self._sysfs.has_node(number) or node != self._sysfs.node(number):
            raise fail(errno.ENOENT)
        if self._sysfs.is_noiommu(number):
            process.require_raw_io()
        group = self._groups.get(number)
        if self._nodes[number] or (group is not None and group.references):
            raise fail(errno.EBUSY)
        self._groups[number] = GroupState(self._kernel, number)
        return self._groups[number]

    def open_node(self, name: str, process: Process) -> CdevState:
        """Of a device, by its name in /dev/vfio/devices: any number may be open, one bound. Raises OSError(ENOENT)."""
        nodes = self._sysfs.nodes()
        if name not in nodes:
            raise fail(errno.ENOENT)
        if self._sysfs.lacks_iommu(self._functions[nodes[name]]):
            process.require_raw_io()
        return CdevState(self._kernel, nodes[name])

    def open_in_group(self, group: GroupState, name: str, process: Process) -> DeviceState:
        """A member of group, for one descriptor more. name: its address, and perhaps " vf_token=UUID" behind it."""
        address, _, options = name.partition(" ")
        function = self._functions.get(address)
        if function is None or function.group != group.number or function.driver != VFIO_DRIVER:
            raise fail(errno.ENODEV)
        if function.is_mediated and name != address:
            raise fail(errno.ENODEV)
        device = self.opened_device(address) or DeviceState(self._kernel, function, group)
        self._check_vf_token(function, device, _vf_token(options))
        if group.container is None:
            raise fail(errno.EINVAL)
        if not device.opens:
            device.container = group.container
            device.translate = group.container.admit(device, process)
            self._devices[address] = device
        return device

    def new_device(self, address: str, vf_token: bytes | None) -> DeviceState:
        """A device to be opened by its own node. Raises OSError(EACCES, EINVAL) for a token that is not right."""
        device = DeviceState(self._kernel, self._functions[address])
        # Before that a node could be opened without.
        if self._kernel.version >= (6, 17):
            self._check_vf_token(self._functions[address], device, vf_token)
        return device

    def hand_out(self, device: DeviceState) -> None:
        """To who opened its node. Raises OSError(EINVAL) if it is open already."""
        if self.opened_device(device.address):
            raise fail(errno.EINVAL)
        self._devices[device.address] = device

    def block_group(self, address: str) -> None:
        """A node is being bound. Raises OSError(EBUSY) if the device's group is open."""
        number = self._functions[address].group
        group = self._groups.get(number)
        if group is not None and group.references:
            raise fail(errno.EBUSY)
        self._nodes[number] += 1

    def unblock_group(self, address: str) -> None:
        self._nodes[self._functions[address].group] -= 1

    def claim(self, address: str, owner: IommufdState) -> None:
        """Raises OSError(EPERM) if another iommufd, or a host driver, has a member of the device's group."""
        number = self._functions[address].group
        holder, count = self._claims.get(number, (owner, 0))
        if holder is not owner or not self._sysfs.viable(number):
            raise fail(errno.EPERM)
        if self._sysfs.is_claimed_by_firmware(number) and self._kernel.version >= (6, 7):
            raise fail(errno.EINVAL)
        self._claims[number] = (owner, count + 1)

    def disclaim(self, address: str) -> None:
        number = self._functions[address].group
        owner, count = self._claims.pop(number)
        if count > 1:
            self._claims[number] = (owner, count - 1)

    def _check_vf_token(self, function: PciFunction, device: DeviceState, token: bytes | None) -> None:
        """Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_match_token_uuid."""
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
        """What a physical function asks who opens its virtual ones; it is kept while the function is closed."""
        return self._vf_tokens.setdefault(physical.address, VfToken())

    def _virtual_functions(self, physical: PciFunction) -> list[PciFunction]:
        return [function for function in self._functions.values() if function.physical_function == physical.address]


def _vf_token(options: str) -> bytes | None:
    """Of what stands behind a device's name. Raises OSError(EINVAL) for anything else. Source: vfio_pci_core_match."""
    words = [word for word in options.split(" ") if word]
    if not words:
        return None
    key, _, text = words[0].partition("=")
    try:
        token = uuid.UUID(text)
    except ValueError:
        raise fail(errno.EINVAL) from None
    if len(words) > 1 or key != "vf_token" or str(token) != text.lower():
        raise fail(errno.EINVAL)
    return token.bytes
