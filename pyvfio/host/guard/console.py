"""What the console needs of a device: its display, its serial port, its keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pyvfio.kernel import Kernel, text_or_empty
from pyvfio.reserved import bar_holders
from pyvfio.sysfs import DEVICES, PciDevice, of_class, virtio_devices
from pyvfio.texts import printable, words_of

_DISPLAY = 0x03
_INPUT_DEVICES = "/proc/bus/input/devices"
_CONSOLE_FRAMEBUFFER = "fb0"


def console_uses(kernel: Kernel, device: PciDevice) -> Iterator[str]:
    """What the console needs of a device, as a phrase for each reason."""
    if device.class_code >> 16 == _DISPLAY and text_or_empty(kernel, f"{DEVICES}/{device.address}/boot_vga") == "1":
        yield "it is the display that the machine booted with, where the console is"
    elif device.class_code >> 16 == _DISPLAY and device.driver is None:
        # VFIO's drivers take the framebuffer of the boot away, since Linux 6.0.
        for name in dict.fromkeys(name for index in range(6) for name in bar_holders(kernel, device.address, index)):
            yield f"{printable(name)}, the framebuffer of the boot, is in its memory"
    if _CONSOLE_FRAMEBUFFER in of_class(kernel, "graphics", device.address, dependent=True):
        yield f"{_CONSOLE_FRAMEBUFFER}, the framebuffer of the console, is on it"
    consoles = words_of(text_or_empty(kernel, "/sys/class/tty/console/active"))
    ports = of_class(kernel, "tty", device.address, dependent=True)
    yield from (f"{name} is a console of the kernel" for name in consoles if name in ports)
    if any(virtio.driver == "virtio_console" for virtio in virtio_devices(kernel, device.address)):
        # sysfs has hvc0 below no device.
        yield from (
            f"{name} is a console of the kernel, and may be on it" for name in consoles if name.startswith("hvc")
        )
    for name in _keyboards(kernel, device.address):
        yield f"the keyboard {name} is on it"


def _keyboards(kernel: Kernel, address: str) -> Iterator[str]:
    """The names of the keyboards on a device. Source: Documentation/input/input.rst, /proc/bus/input/devices."""
    for block in text_or_empty(kernel, _INPUT_DEVICES).split("\n\n"):
        place = re.search(r"^S: Sysfs=(.*)$", block, re.MULTILINE)
        handlers = re.search(r"^H: Handlers=(.*)$", block, re.MULTILINE)
        if place and handlers and f"/{address}/" in f"{place[1]}/" and "kbd" in words_of(handlers[1]):
            name = re.search(r'^N: Name="(.*)"$', block, re.MULTILINE)
            yield printable(name[1]) if name else "of no name"
