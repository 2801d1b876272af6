"""What the kernel tells, and waiting for a node without asking over and over."""

from __future__ import annotations

import errno

import pytest

from pyvfio import VfioError
from pyvfio.host import LinuxUevents, Uevent, wait_for_node
from pyvfio.sim import PciFunction, SimKernel

BIND = b"bind@/devices/pci0000:00/0000:00:03.0\0ACTION=bind\0DEVPATH=/devices/pci0000:00/0000:00:03.0\0SUBSYSTEM=pci\0"


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (BIND + b"DRIVER=vfio-pci\0", ("bind", "pci", "0000:00:03.0", "vfio-pci")),
        (b"add@/devices/virtual/vfio/3\0ACTION=add\0DEVPATH=/devices/virtual/vfio/3\0SUBSYSTEM=vfio\0",
         ("add", "vfio", "3", None)),
        (b"remove@/x\0", ("", "", "", None)),
        (b"", ("", "", "", None)),
        (BIND + b"NONSENSE\0\xff\xfe=1\0A=b=c\0", ("bind", "pci", "0000:00:03.0", None)),
    ],
)  # fmt: skip
def test_parse(message: bytes, event: tuple[str, str, str, str | None]) -> None:
    parsed = Uevent.parse(message)
    assert (parsed.action, parsed.subsystem, parsed.name, parsed.properties.get("DRIVER")) == event


class Told:
    """Events that come one by one; meanwhile happens before the last of them."""

    def __init__(self, kernel: SimKernel, events: int) -> None:
        self.kernel = kernel
        self.left = events
        self.asked = 0

    def next(self, timeout: float | None = None) -> Uevent | None:
        assert timeout is not None
        assert timeout >= 0
        self.asked += 1
        self.left -= 1
        if self.left < 0:
            return None
        if self.left == 0:
            self.kernel.add(PciFunction("0000:00:03.0", group=3, driver="vfio-pci"))
        return Uevent.parse(BIND)


def test_a_node_that_is_there_already_needs_no_event() -> None:
    kernel = SimKernel(edu_devices=1)
    events = Told(kernel, 0)
    wait_for_node(kernel, "/dev/vfio/3", events, 5.0)
    assert events.asked == 0


def test_each_event_is_a_reason_to_look_again() -> None:
    events = Told(SimKernel(), 3)
    wait_for_node(events.kernel, "/dev/vfio/3", events, 5.0)
    assert events.asked == 3


def test_a_node_that_never_comes() -> None:
    with pytest.raises(VfioError, match="devtmpfs") as caught:
        wait_for_node(SimKernel(), "/dev/vfio/3", Told(SimKernel(), 0), 5.0)
    assert caught.value.errno == errno.ETIMEDOUT


def test_nothing_is_left_open() -> None:
    with LinuxUevents() as events:
        events.next(0.0)
    with pytest.raises((OSError, ValueError)):
        events.next(0.0)
