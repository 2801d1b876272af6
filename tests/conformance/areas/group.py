"""Groups: open, status, container, devices. Source: drivers/vfio/group.c (before 6.2: vfio_main.c)."""

from errno import EBADF, EBADFD, EBUSY, EFAULT, EINVAL, ENODEV, ENOTTY, EPERM

from tests.conformance.areas.setups import ATTACHED, DEVICE, OPEN, READY
from tests.conformance.calls.container import map_dma, open_container, set_iommu
from tests.conformance.calls.device import get_info
from tests.conformance.calls.group import (
    get_device_fd,
    get_status,
    open_group,
    set_container,
    unknown_group_ioctl,
    unset_container,
)
from tests.conformance.calls.process import close, open_eventfd, open_file, unbind_driver
from tests.conformance.case import Case, ok, since

VIABLE, SET = 1, 2
_TOKEN = " vf_token=01234567-89ab-cdef-0123-456789abcdef"
_NO_CONTAINER = since({(6, 1): EINVAL, (6, 2): EBADFD})
_PAIR = [open_container(), open_group(device="pair0")]
_BLOCKED = [open_container(), open_group(device="blocked")]

CASES = [
    Case("open", [], open_group(), ok()),
    Case("open twice", [open_group()], open_group(name="again"), EBUSY),
    Case("open again after close", [open_group(), close(name="group")], open_group(), ok()),
    Case("open while its device is open", [*DEVICE, close(name="group")], open_group(), EBUSY),
    Case("open after its device was closed", [*DEVICE, close(name="group"), close(name="device")], open_group(), ok()),
    Case(
        "the other member's group is the same", _PAIR, open_group(device="pair1", name="again"), EBUSY, needs=["pair"]
    ),
    Case("status", OPEN, get_status(), ok(argsz=8, flags=VIABLE)),
    Case("status with a container", ATTACHED, get_status(), ok(flags=VIABLE | SET)),
    Case("status after the container", [*ATTACHED, unset_container()], get_status(), ok(flags=VIABLE)),
    Case("status, argsz one byte short", OPEN, get_status(argsz=7), EINVAL),
    Case("status, larger argsz", OPEN, get_status(argsz=64), ok(argsz=64, flags=VIABLE)),
    Case("status, struct one byte short", OPEN, get_status(reach=7), EFAULT),
    Case("status, no struct", OPEN, get_status(reach=0), EFAULT),
    Case("status of a pair", _PAIR, get_status(), ok(flags=VIABLE), needs=["pair"]),
    Case("status with a member in a host driver's hands", _BLOCKED, get_status(), ok(flags=0), needs=["blocked"]),
    Case("container", OPEN, set_container(), ok()),
    Case("container twice", ATTACHED, set_container(), EINVAL),
    Case("another container", [*ATTACHED, open_container(name="other")], set_container(container="other"), EINVAL),
    Case("container with a member in a host driver's hands", _BLOCKED, set_container(), EPERM, needs=["blocked"]),
    Case("container of a pair", _PAIR, set_container(), ok(), needs=["pair"]),
    Case(
        "container of a pair with a member of no driver",
        [unbind_driver(device="pair1"), *_PAIR],
        set_container(),
        ok(),
        needs=["pair"],
    ),
    Case("container, no pointer", OPEN, set_container(reach=0), EFAULT),
    Case("container, pointer to three bytes", OPEN, set_container(reach=3), EFAULT),
    Case("container -1", OPEN, set_container(container=-1), EBADF),
    Case("container that is no descriptor", OPEN, set_container(container=1 << 20), EBADF),
    Case("a file as container", [*OPEN, open_file()], set_container(container="file"), _NO_CONTAINER),
    Case("an eventfd as container", [*OPEN, open_eventfd()], set_container(container="eventfd"), _NO_CONTAINER),
    Case("itself as container", OPEN, set_container(container="group"), _NO_CONTAINER),
    Case("a bad descriptor comes before a container that is set", ATTACHED, set_container(container=-1), EBADF),
    Case(
        "a container that is set comes before one that is none",
        [*ATTACHED, open_file()],
        set_container(container="file"),
        EINVAL,
    ),
    Case("no container to leave", OPEN, unset_container(), EINVAL),
    Case("leave the container", ATTACHED, unset_container(), ok()),
    Case("leave it twice", [*ATTACHED, unset_container()], unset_container(), EINVAL),
    Case("leave it with a device open", DEVICE, unset_container(), EBUSY, after=[(map_dma(), ok(mapped=1, locked=1))]),
    Case("leave it after the device was closed", [*DEVICE, close(name="device")], unset_container(), ok()),
    Case("device", READY, get_device_fd(), ok(), after=[(get_info(), ok())]),
    Case("device a second time", DEVICE, get_device_fd(name="second"), ok(), after=[(get_info(device="second"), ok())]),
    Case("device without a container", OPEN, get_device_fd(), EINVAL),
    Case("device without an IOMMU", ATTACHED, get_device_fd(), EINVAL),
    Case("no such device", READY, get_device_fd(text="0000:7f:1f.7"), ENODEV),
    Case("a name that is none", READY, get_device_fd(text="edu"), ENODEV),
    Case("an empty name", READY, get_device_fd(text=""), ENODEV),
    Case("a device of another group", READY, get_device_fd(device="1"), ENODEV),
    Case("the lookup comes before the container", OPEN, get_device_fd(text="edu"), ENODEV),
    Case("no name", READY, get_device_fd(reach=0), EFAULT),
    Case("a name that ends in nothing", READY, get_device_fd(reach=5), EFAULT),
    Case("a name of a page", READY, get_device_fd(text="x" * 4095), ENODEV),
    Case("a name of more than a page", READY, get_device_fd(text="x" * 4097), EINVAL),
    Case("a name and a space", READY, get_device_fd(suffix=" "), ok()),
    Case("a name and more of it", READY, get_device_fd(suffix="1"), ENODEV),
    Case("a token for a device without", READY, get_device_fd(suffix=_TOKEN), EINVAL),
    Case("a malformed token", READY, get_device_fd(suffix=" vf_token=xyz"), EINVAL),
    Case("an unknown option", READY, get_device_fd(suffix=" other=1"), EINVAL),
    Case("the option comes before the container", OPEN, get_device_fd(suffix=" other=1"), EINVAL),
    Case(
        "both members of a pair",
        [*_PAIR, set_container(), set_iommu(), get_device_fd(device="pair0")],
        get_device_fd(device="pair1", name="second"),
        ok(),
        needs=["pair"],
    ),
    Case(
        "a member of no driver",
        [unbind_driver(device="pair1"), *_PAIR, set_container(), set_iommu()],
        get_device_fd(device="pair1"),
        ENODEV,
        needs=["pair"],
    ),
    Case(
        "the group without its container, while the device is open",
        [*DEVICE, map_dma(), close(name="group"), close(name="container")],
        get_info(),
        ok(),
        after=[(close(name="device"), ok(locked=-1))],
    ),
    *(Case(f"ioctl {number}", ATTACHED, unknown_group_ioctl(number=number), ENOTTY) for number in (0, 1, 2, 7, 12, 99)),
]
