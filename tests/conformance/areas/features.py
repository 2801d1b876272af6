"""VFIO_DEVICE_FEATURE. Source: vfio_ioctl_device_feature, vfio_pci_core_ioctl_feature."""

from collections.abc import Mapping, Sequence
from errno import EBADF, EFAULT, EINVAL, ENODEV, ENOTTY, EOVERFLOW
from typing import Any

from pyvfio.abi import vfio
from tests.conformance.areas.reset import BAR_SIZE
from tests.conformance.areas.setups import DEVICE
from tests.conformance.bench import PAGE
from tests.conformance.calls.device import dma_buf, enter_with_wakeup, feature, get_info
from tests.conformance.calls.process import open_eventfd, open_file
from tests.conformance.case import Case, Expected, ok, since

GET, SET, PROBE = vfio.VFIO_DEVICE_FEATURE_GET, vfio.VFIO_DEVICE_FEATURE_SET, vfio.VFIO_DEVICE_FEATURE_PROBE
LOW_POWER_ENTRY, WITH_WAKEUP, LOW_POWER_EXIT, DMA_BUF, PRECOPY_INFO = 3, 4, 5, 11, 12

_ENTER = feature(flags=SET | LOW_POWER_ENTRY)
_EVENT = [*DEVICE, open_eventfd()]

# What a conventional PCI device has none of.
_ABSENT = [0, 1, 2, 6, 7, 8, 9, 10, 13, 99, 0xFFFF]
_LAST_PAGE = (1 << 64) - PAGE
_DMA_BUFS: Sequence[tuple[str, Mapping[str, Any], Expected]] = (
    (" of a page", {}, ok()),
    (" of all", {"ranges": [(0, BAR_SIZE)]}, ok()),
    (" of two parts", {"ranges": [(0, PAGE), (2 * PAGE, PAGE)]}, ok()),
    (" of the same part twice", {"ranges": [(0, PAGE), (0, PAGE)]}, ok()),
    (" of nothing", {"ranges": []}, EINVAL),
    (" of no bytes", {"ranges": [(0, 0)]}, EINVAL),
    (" of less than a page", {"ranges": [(0, 7)]}, EINVAL),
    (" from an odd place", {"ranges": [(1, PAGE)]}, EINVAL),
    (" beyond the end", {"ranges": [(BAR_SIZE, PAGE)]}, EINVAL),
    (" across the end", {"ranges": [(BAR_SIZE - PAGE, 2 * PAGE)]}, EINVAL),
    (" that wraps", {"ranges": [(_LAST_PAGE, 2 * PAGE)]}, EOVERFLOW),
    (" of more than all", {"ranges": [(0, _LAST_PAGE), (0, 2 * PAGE)]}, EINVAL),
    (" of a BAR it has not", {"region": 1}, ENODEV),
    (" of config space", {"region": 7}, ENODEV),
    (", flags", {"flags": 1}, EINVAL),
    (", argsz one byte short", {"argsz": 23}, EINVAL),
    (", argsz without the ranges", {"argsz": 24}, ok()),
    (", struct one byte short", {"reach": 23}, EFAULT),
    (", ranges that end too early", {"reach": 39}, EFAULT),
    (", nothing is asked of a BAR it has not", {"region": 1, "ranges": []}, EINVAL),
)

CASES = [
    *(Case(f"feature {index} is not there", DEVICE, feature(flags=PROBE | GET | index), ENOTTY) for index in _ABSENT),
    *(Case(f"feature {index} cannot be set", DEVICE, feature(flags=SET | index), ENOTTY) for index in _ABSENT),
    Case(
        "precopy info can be set without PRE_COPY",
        DEVICE,
        feature(flags=PROBE | SET | PRECOPY_INFO),
        since({(6, 1): ENOTTY, (7, 0): EINVAL}),
    ),
    Case(
        "precopy info can be got without PRE_COPY",
        DEVICE,
        feature(flags=PROBE | GET | PRECOPY_INFO),
        since({(6, 1): ENOTTY, (7, 0): EINVAL}),
    ),
    Case("low power can be set", DEVICE, feature(flags=PROBE | SET | LOW_POWER_ENTRY), ok()),
    Case("low power cannot be got", DEVICE, feature(flags=PROBE | GET | LOW_POWER_ENTRY), EINVAL),
    Case("low power, get and set", DEVICE, feature(flags=PROBE | GET | SET | LOW_POWER_ENTRY), EINVAL),
    Case("low power, no operation", DEVICE, feature(flags=LOW_POWER_ENTRY), EINVAL),
    Case("low power, probed for nothing", DEVICE, feature(flags=PROBE | LOW_POWER_ENTRY), ok()),
    Case("low power, get", DEVICE, feature(flags=GET | LOW_POWER_ENTRY), EINVAL),
    Case("low power with wakeup can be set", DEVICE, feature(flags=PROBE | SET | WITH_WAKEUP), ok()),
    Case("low power with wakeup cannot be got", DEVICE, feature(flags=PROBE | GET | WITH_WAKEUP), EINVAL),
    Case("low power with wakeup, too little data", DEVICE, feature(flags=SET | WITH_WAKEUP, data=bytes(7)), EINVAL),
    Case("low power exit can be set", DEVICE, feature(flags=PROBE | SET | LOW_POWER_EXIT), ok()),
    Case("low power exit cannot be got", DEVICE, feature(flags=PROBE | GET | LOW_POWER_EXIT), EINVAL),
    Case("low power", DEVICE, _ENTER, ok(), after=[(get_info(), ok()), (feature(flags=SET | LOW_POWER_EXIT), ok())]),
    Case("low power twice", [*DEVICE, _ENTER], _ENTER, EINVAL),
    Case("low power with wakeup after it without", [*_EVENT, _ENTER], enter_with_wakeup(fd="eventfd"), EINVAL),
    Case("low power again", [*DEVICE, _ENTER, feature(flags=SET | LOW_POWER_EXIT)], _ENTER, ok()),
    Case("low power is left without being entered", DEVICE, feature(flags=SET | LOW_POWER_EXIT), ok()),
    Case("low power with wakeup", _EVENT, enter_with_wakeup(fd="eventfd"), ok()),
    Case("low power with wakeup, no descriptor", DEVICE, enter_with_wakeup(fd=1 << 20), EBADF),
    Case("low power with wakeup, -1", DEVICE, enter_with_wakeup(fd=-1), EINVAL),
    Case("low power with wakeup, no eventfd", [*DEVICE, open_file()], enter_with_wakeup(fd="file"), EINVAL),
    Case("low power with wakeup, reserved", _EVENT, enter_with_wakeup(fd="eventfd", reserved=1), ok()),
    Case("low power with wakeup, data cannot be read", _EVENT, enter_with_wakeup(fd="eventfd", reach=8), EFAULT),
    # A BAR as a dma-buf, since 6.19.
    Case("dma-buf can be got", DEVICE, feature(flags=PROBE | GET | DMA_BUF), since({(6, 1): ENOTTY, (6, 19): ok()})),
    *(
        Case(f"dma-buf{name}", DEVICE, dma_buf(**arguments), answer, versions=((6, 19), (99, 0)))
        for name, arguments, answer in _DMA_BUFS
    ),
    Case("get and set together", DEVICE, feature(flags=GET | SET | LOW_POWER_ENTRY), EINVAL),
    Case("get and set of an unknown feature", DEVICE, feature(flags=GET | SET | 99), EINVAL),
    Case("unknown flag", DEVICE, feature(flags=PROBE | SET | 1 << 19 | LOW_POWER_ENTRY), EINVAL),
    Case("the highest flag", DEVICE, feature(flags=PROBE | SET | 1 << 31 | LOW_POWER_ENTRY), EINVAL),
    Case("unknown flag comes before an unknown feature", DEVICE, feature(flags=PROBE | GET | 1 << 19 | 99), EINVAL),
    Case("argsz one byte short", DEVICE, feature(flags=PROBE | SET | LOW_POWER_ENTRY, argsz=7), EINVAL),
    Case("argsz 0", DEVICE, feature(flags=PROBE | SET | LOW_POWER_ENTRY, argsz=0), EINVAL),
    Case("a larger argsz", DEVICE, feature(flags=PROBE | SET | LOW_POWER_ENTRY, argsz=100), ok()),
    Case("struct one byte short", DEVICE, feature(flags=PROBE | SET | LOW_POWER_ENTRY, reach=7), EFAULT),
    Case("no struct", DEVICE, feature(flags=PROBE | SET | LOW_POWER_ENTRY, reach=0), EFAULT),
]
