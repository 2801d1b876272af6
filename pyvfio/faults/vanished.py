"""Devices that have been pulled out, seen from a program that has them open."""

from __future__ import annotations

import ctypes
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from pyvfio.abi import vfio
from pyvfio.kernel import IoctlArgument, Kernel, Window

_NODES = "/dev/vfio/devices/"


@dataclass(frozen=True, slots=True)
class _DeviceWindow:
    """A window onto registers of a device, which read as ones when it is among those that are gone."""

    window: Window
    gone: Container[str]
    device: str
    views: Mapping[int, memoryview[int]] = field(default_factory=dict)

    @property
    def released(self) -> bool:
        return self.window.released

    def load(self, offset: int, width: int) -> int:
        return (1 << 8 * width) - 1 if self.device in self.gone else self.window.load(offset, width)

    def store(self, offset: int, width: int, value: int) -> None:
        if self.device not in self.gone:
            self.window.store(offset, width, value)

    def release(self) -> None:
        self.window.release()


class OpenDevices:
    """The descriptors and the mapped registers of each device, and which devices are gone."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._addresses: dict[int, str] = {}
        self._windows: dict[int, tuple[int, str]] = {}
        self._gone: set[str] = set()

    def vanish(self, address: str) -> None:
        self._gone.add(address)

    def opened(self, fd: int, path: str) -> None:
        """open() has returned fd for path, which may be the node of a device."""
        if path.startswith(_NODES):
            self._addresses[fd] = self._address_of_node(path.removeprefix(_NODES))

    def called(self, request: int, argument: IoctlArgument, result: int) -> None:
        """An ioctl has been made, which may have opened a device."""
        if request == vfio.VFIO_GROUP_GET_DEVICE_FD and isinstance(argument, ctypes.Array):
            self._addresses[result] = argument.value.decode().split(" ")[0]

    def duplicated(self, fd: int, other: int) -> None:
        if fd in self._addresses:
            self._addresses[other] = self._addresses[fd]

    def closed(self, fd: int) -> None:
        self._addresses.pop(fd, None)

    def mapped(self, fd: int, start: int, size: int) -> None:
        if fd in self._addresses:
            self._windows[start] = size, self._addresses[fd]

    def unmapped(self, start: int) -> None:
        self._windows.pop(start, None)

    def is_gone(self, fd: int) -> bool:
        return self._addresses.get(fd) in self._gone

    def window(self, address: int, window: Window) -> Window:
        """What a program gets that asked for this window: another one, if it is of a device's registers."""
        for start, (size, device) in self._windows.items():
            if start <= address < start + size:
                return _DeviceWindow(window, self._gone, device)
        return window

    def _address_of_node(self, node: str) -> str:
        devices = "/sys/bus/pci/devices"
        for address in self._kernel.listdir(devices):
            try:
                if node in self._kernel.listdir(f"{devices}/{address}/vfio-dev"):
                    return address
            except FileNotFoundError:
                continue
        return node
