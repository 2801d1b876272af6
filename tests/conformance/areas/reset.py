"""Resets, hot resets and ioeventfds of an edu. Source: vfio_pci_core.c, vfio_pci_rdwr.c."""

from errno import EBADF, EEXIST, EFAULT, EINVAL, ENODEV, ENOSPC

from pyvfio.abi import vfio
from tests.conformance.areas.setups import DEVICE
from tests.conformance.calls.container import open_container, set_iommu
from tests.conformance.calls.device import (
    fill_ioeventfds,
    get_hot_reset_info,
    get_info,
    hot_reset,
    reset,
    set_ioeventfd,
)
from tests.conformance.calls.group import get_device_fd, open_group, set_container
from tests.conformance.calls.process import open_eventfd, open_file
from tests.conformance.case import Case, ok, since

_PAIR = [
    open_container(),
    open_group(device="pair0"),
    set_container(),
    set_iommu(),
    get_device_fd(device="pair0"),
]
_BOTH = [*_PAIR, get_device_fd(device="pair1", name="second")]
_EVENT = [*DEVICE, open_eventfd()]
_8, _16 = vfio.VFIO_DEVICE_IOEVENTFD_8, vfio.VFIO_DEVICE_IOEVENTFD_16
_32, _64 = vfio.VFIO_DEVICE_IOEVENTFD_32, vfio.VFIO_DEVICE_IOEVENTFD_64
_SET = [*_EVENT, set_ioeventfd(flags=_32)]
BAR_SIZE = 1 << 20
# As measured: 6.18 has no 8-byte write of its own for it.
_EIGHT_BYTES = since({(6, 1): ok(), (6, 18): EINVAL, (7, 0): ok()})

CASES = [
    Case("reset on the root bus", DEVICE, reset(), EINVAL),
    Case("hot reset info on the root bus", DEVICE, get_hot_reset_info(), ENODEV),
    Case("hot reset info, argsz one byte short", DEVICE, get_hot_reset_info(argsz=11), EINVAL),
    Case("hot reset info, struct one byte short", DEVICE, get_hot_reset_info(reach=11), EFAULT),
    Case("hot reset info, no struct", DEVICE, get_hot_reset_info(reach=0), EFAULT),
    Case("hot reset on the root bus", DEVICE, hot_reset(), ENODEV),
    Case("hot reset, argsz one byte short", DEVICE, hot_reset(argsz=11), EINVAL),
    Case("hot reset, flags", DEVICE, hot_reset(flags=1), EINVAL),
    Case("hot reset, struct one byte short", DEVICE, hot_reset(reach=11), EFAULT),
    Case("one of a pair has no reset of its own", _PAIR, get_info(), ok(flags=2), needs=["pair"]),
    Case("reset one of a pair", _PAIR, reset(), EINVAL, needs=["pair"]),
    Case("hot reset info of a pair", _PAIR, get_hot_reset_info(), ok(count=2), needs=["pair"]),
    Case("hot reset info of a pair, room for one", _PAIR, get_hot_reset_info(room=1), ENOSPC, needs=["pair"]),
    Case("hot reset info of a pair, no room", _PAIR, get_hot_reset_info(room=0), ENOSPC, needs=["pair"]),
    Case("hot reset of a pair", _PAIR, hot_reset(), ok(), needs=["pair"]),
    Case("hot reset of a pair, both open", _BOTH, hot_reset(), ok(), needs=["pair"]),
    Case("hot reset of a pair, no group", _PAIR, hot_reset(groups=()), EINVAL, needs=["pair"]),
    Case(
        "hot reset of a pair, more groups than devices", _PAIR, hot_reset(groups=("group",) * 3), EINVAL, needs=["pair"]
    ),
    Case("hot reset of a pair, a descriptor that is none", _PAIR, hot_reset(groups=(1 << 20,)), EBADF, needs=["pair"]),
    Case(
        "hot reset of a pair, no group's descriptor",
        [*_PAIR, open_file()],
        hot_reset(groups=("file",)),
        EINVAL,
        needs=["pair"],
    ),
    Case("hot reset of a pair, groups cannot be read", _PAIR, hot_reset(reach=12), EFAULT, needs=["pair"]),
    Case(
        "hot reset of a pair by another group",
        [*_PAIR, open_group(name="other")],
        hot_reset(groups=("other",)),
        EINVAL,
        needs=["pair"],
    ),
    Case("ioeventfd", _EVENT, set_ioeventfd(flags=_32), ok()),
    Case("ioeventfd of a byte", _EVENT, set_ioeventfd(flags=_8), ok()),
    Case("ioeventfd of two bytes", _EVENT, set_ioeventfd(flags=_16, offset=2), ok()),
    Case("ioeventfd of eight bytes", _EVENT, set_ioeventfd(flags=_64), _EIGHT_BYTES),
    Case("ioeventfd of no size", _EVENT, set_ioeventfd(flags=0), EINVAL),
    Case("ioeventfd of two sizes", _EVENT, set_ioeventfd(flags=_8 | _32), EINVAL),
    Case("ioeventfd, unknown flag", _EVENT, set_ioeventfd(flags=_32 | 16), EINVAL),
    Case("ioeventfd twice", _SET, set_ioeventfd(flags=_32), EEXIST),
    Case("a thousand ioeventfds", [*_EVENT, fill_ioeventfds(count=999)], set_ioeventfd(flags=_32, offset=4), ok()),
    Case("one more", [*_EVENT, fill_ioeventfds(count=1000)], set_ioeventfd(flags=_32, offset=4), ENOSPC),
    Case("one more that is there", [*_EVENT, fill_ioeventfds(count=1000)], set_ioeventfd(flags=_32), EEXIST),
    Case("ioeventfd for other data", _SET, set_ioeventfd(flags=_32, data=1), ok()),
    Case("ioeventfd elsewhere", _SET, set_ioeventfd(flags=_32, offset=4), ok()),
    Case("ioeventfd removed", _SET, set_ioeventfd(flags=_32, fd=-1), ok(), after=[(set_ioeventfd(flags=_32), ok())]),
    Case("ioeventfd removed twice", [*_SET, set_ioeventfd(flags=_32, fd=-1)], set_ioeventfd(flags=_32, fd=-1), ENODEV),
    Case("ioeventfd that is not there", _EVENT, set_ioeventfd(flags=_32, fd=-1), ENODEV),
    Case("ioeventfd -2", _EVENT, set_ioeventfd(flags=_32, fd=-2), EINVAL),
    Case("ioeventfd that is no descriptor", _EVENT, set_ioeventfd(flags=_32, fd=1 << 20), EBADF),
    Case("ioeventfd that is none", [*_EVENT, open_file()], set_ioeventfd(flags=_32, fd="file"), EINVAL),
    Case("ioeventfd in config space", _EVENT, set_ioeventfd(flags=_32, region=7), EINVAL),
    Case("ioeventfd in a BAR it has not", _EVENT, set_ioeventfd(flags=_32, region=1), EINVAL),
    Case("ioeventfd at the end", _EVENT, set_ioeventfd(flags=_32, offset=BAR_SIZE - 4), ok()),
    Case("ioeventfd across the end", _EVENT, set_ioeventfd(flags=_32, offset=BAR_SIZE - 2), EINVAL),
    Case("ioeventfd beyond the end", _EVENT, set_ioeventfd(flags=_32, offset=BAR_SIZE), EINVAL),
    Case("ioeventfd, argsz one byte short", _EVENT, set_ioeventfd(flags=_32, argsz=27), EINVAL),
    Case("ioeventfd, argsz 28", _EVENT, set_ioeventfd(flags=_32, argsz=28), ok()),
    Case("ioeventfd, struct one byte short", _EVENT, set_ioeventfd(flags=_32, reach=27), EFAULT),
]
