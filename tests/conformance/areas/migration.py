"""The states of a device that can be migrated, and what it logs. On real kernels it is mtty, the sample of a mediated
device, which has all of the states and no DMA.

Source: drivers/vfio/vfio_main.c, vfio_mig_get_next_state and vfio_ioctl_device_feature_*; linux/vfio.h.
"""

from errno import E2BIG, EFAULT, EINVAL, ENODEV, ENOTTY, EOVERFLOW

from pyvfio.abi import vfio
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import open_container, set_iommu
from tests.conformance.calls.device import feature, reset
from tests.conformance.calls.group import get_device_fd, open_group, set_container
from tests.conformance.calls.migration import (
    get_state,
    has_data,
    load,
    precopy_info,
    read_stream,
    report_logged,
    save,
    set_state,
    start_logging,
    write_stream,
)
from tests.conformance.case import Case, ok, since
from tests.conformance.step import Step

ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = range(8)
GET, SET, PROBE = vfio.VFIO_DEVICE_FEATURE_GET, vfio.VFIO_DEVICE_FEATURE_SET, vfio.VFIO_DEVICE_FEATURE_PROBE
KINDS, STATE, START, END, REPORT, SIZE = 1, 2, 6, 7, 8, 9
LAST_PAGE = (1 << 64) - PAGE

# What an earlier case left a real device in ends with a reset.
DEVICE = [
    open_container(),
    open_group(device="mdev"),
    set_container(),
    set_iommu(),
    get_device_fd(device="mdev"),
    reset(),
]
NAMES = {
    STOP: "STOP",
    RUNNING: "RUNNING",
    STOP_COPY: "STOP_COPY",
    RESUMING: "RESUMING",
    RUNNING_P2P: "RUNNING_P2P",
    PRE_COPY: "PRE_COPY",
    PRE_COPY_P2P: "PRE_COPY_P2P",
}
SAVING = {PRE_COPY, PRE_COPY_P2P, STOP_COPY}


def _in(state: int) -> list[Step]:
    return [*DEVICE, set_state(state=state)]


def _gives_stream(before: int, after: int) -> bool:
    """A stream of the state that is saved goes on from pre-copy to the end."""
    if before == after:
        return False
    return after == RESUMING or (after in SAVING and before not in {PRE_COPY, PRE_COPY_P2P})


def _way(before: int, after: int) -> Case:
    name = f"{NAMES[before]} to {NAMES[after]}"
    if before == STOP_COPY and after in (PRE_COPY, PRE_COPY_P2P):
        return Case(name, _in(before), set_state(state=after), EINVAL, after=[(get_state(), ok(state=before))])
    stream = _gives_stream(before, after)
    return Case(
        name,
        _in(before),
        set_state(state=after, stream="next"),
        ok(state=after, stream=stream),
        after=[(get_state(), ok(state=after, fd=-1))],
    )


STOPPED = _in(STOP_COPY)
SAVED = [*STOPPED, save(), set_state(state=RESUMING, stream="target")]
EARLY = _in(PRE_COPY)
RANGES = ((0x10_0000, 4 * PAGE), (0x20_0000, PAGE))
LOGGING = [*DEVICE, start_logging(ranges=RANGES)]

CASES = [
    Case("kinds", DEVICE, feature(flags=GET | KINDS, data=bytes(8)), ok(data="0700000000000000")),
    Case("kinds cannot be set", DEVICE, feature(flags=SET | KINDS, data=bytes(8)), EINVAL),
    Case("kinds without room", DEVICE, feature(flags=GET | KINDS, data=bytes(7)), EINVAL),
    Case("states can be got and set", DEVICE, feature(flags=PROBE | GET | SET | STATE), ok()),
    Case("a state without room", DEVICE, feature(flags=SET | STATE, data=bytes(7)), EINVAL),
    Case("a state that is not there", DEVICE, feature(flags=SET | STATE, argsz=16, reach=8), EFAULT),
    Case("a new device runs", DEVICE, get_state(), ok(state=RUNNING, fd=-1)),
    Case("there is something to move", DEVICE, has_data(), ok(is_some=True)),
    Case("how much cannot be set", DEVICE, feature(flags=SET | SIZE, data=bytes(8)), EINVAL),
    Case("no low power", DEVICE, feature(flags=PROBE | SET | 3), ENOTTY),
    Case(
        "pre-copy can tell flags",
        DEVICE,
        feature(flags=PROBE | SET | vfio.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2),
        since({(6, 1): ENOTTY, (7, 0): ok()}),
    ),
    # States. RESUMING is left when there is something to load only, which is below.
    *(_way(before, after) for before in NAMES if before != RESUMING for after in NAMES),
    Case("no way to ERROR", DEVICE, set_state(state=ERROR), EINVAL, after=[(get_state(), ok(state=RUNNING))]),
    Case("no such state", DEVICE, set_state(state=8), EINVAL, after=[(get_state(), ok(state=RUNNING))]),
    Case("no such state at all", DEVICE, set_state(state=0xFFFF_FFFF), EINVAL),
    *(
        Case(f"reset in {NAMES[state]}", _in(state), reset(), ok(), after=[(get_state(), ok(state=RUNNING))])
        for state in NAMES
    ),
    # Streams.
    Case("a stopped device is read", STOPPED, read_stream(), ok(value=8)),
    Case("to its end", [*STOPPED, save()], read_stream(), ok(value=0)),
    Case("loaded again", SAVED, load(stream="target"), ok(), after=[(set_state(state=RUNNING), ok(stream=False))]),
    *(
        Case(f"loaded, then {NAMES[state]}", [*SAVED, load(stream="target")], set_state(state=state), ok(state=state))
        for state in NAMES
        if state != RESUMING
    ),
    Case("nothing is loaded", _in(RESUMING), set_state(state=STOP), EINVAL, after=[(reset(), ok())]),
    Case("read when it runs", [*STOPPED, set_state(state=RUNNING)], read_stream(), ENODEV),
    Case("written when it runs", [*SAVED, load(stream="target"), reset()], write_stream(stream="target"), ENODEV),
    Case("read after a reset", [*STOPPED, reset()], read_stream(), ENODEV),
    Case("read early", EARLY, read_stream(), ok(value=8)),
    Case("goes on when it stops", [*EARLY, set_state(state=STOP_COPY)], read_stream(), ok(value=8)),
    Case("goes on in P2P", [*EARLY, set_state(state=PRE_COPY_P2P)], read_stream(), ok(value=8)),
    Case("given up", [*EARLY, set_state(state=RUNNING)], read_stream(), ENODEV),
    Case("how much is left", EARLY, precopy_info(), ok(dirty_bytes=0)),
    Case("how much is left in P2P", [*EARLY, set_state(state=PRE_COPY_P2P)], precopy_info(), ok(dirty_bytes=0)),
    Case("how much is left, too little room", EARLY, precopy_info(argsz=23), EINVAL),
    Case("how much is left, of a stopped device", STOPPED, precopy_info(), EINVAL),
    Case("how much is left, stopped since", [*EARLY, set_state(state=STOP_COPY)], precopy_info(), EINVAL),
    Case("another ioctl", EARLY, precopy_info(request=vfio.VFIO_MIG_GET_PRECOPY_INFO + 1), ENOTTY),
    # DMA.
    Case("logging can be started", DEVICE, feature(flags=PROBE | SET | START), ok()),
    Case("and stopped", DEVICE, feature(flags=PROBE | SET | END), ok()),
    Case("and asked", DEVICE, feature(flags=PROBE | GET | REPORT), ok()),
    Case("but not told", DEVICE, feature(flags=PROBE | SET | REPORT), EINVAL),
    Case("logging", DEVICE, start_logging(ranges=RANGES), ok(), after=[(feature(flags=SET | END), ok())]),
    Case("logging of nothing", DEVICE, start_logging(ranges=()), EINVAL),
    Case("logging without room", DEVICE, feature(flags=SET | START, data=bytes(23)), EINVAL),
    Case("logging of too many ranges", DEVICE, start_logging(ranges=RANGES, count=257), E2BIG),
    Case("logging of half a page", DEVICE, start_logging(ranges=((0, PAGE // 2),)), EINVAL),
    Case("logging from an odd address", DEVICE, start_logging(ranges=((1, PAGE),)), EINVAL),
    Case("logging in other pages", DEVICE, start_logging(ranges=((PAGE, PAGE),), page_size=2 * PAGE), EINVAL),
    Case("logging in smaller pages", DEVICE, start_logging(ranges=((512, 512),), page_size=512), ok()),
    Case("logging of the last page", DEVICE, start_logging(ranges=((LAST_PAGE, PAGE),)), EOVERFLOW),
    Case("logging beyond all", DEVICE, start_logging(ranges=((LAST_PAGE, 2 * PAGE),)), EOVERFLOW),
    Case("logging twice of the same", DEVICE, start_logging(ranges=(RANGES[0], RANGES[0])), EINVAL),
    Case("logging of what overlaps", DEVICE, start_logging(ranges=(RANGES[0], (0x10_3000, 2 * PAGE))), EINVAL),
    Case("logging of neighbours", DEVICE, start_logging(ranges=(RANGES[0], (0x10_4000, PAGE))), ok()),
    Case("a report of nothing", LOGGING, report_logged(iova=0x10_0000, length=4 * PAGE), ok()),
    Case("a report of what is not logged", LOGGING, report_logged(iova=0x80_0000, length=4 * PAGE), ok()),
    Case("a report in small pages", LOGGING, report_logged(iova=0, length=PAGE, page_size=PAGE // 2), EINVAL),
    Case("a report in odd pages", LOGGING, report_logged(iova=0, length=PAGE, page_size=3 * PAGE), EINVAL),
    Case("a report in large pages", LOGGING, report_logged(iova=0, length=PAGE, page_size=4 * PAGE), ok()),
    Case("a report beyond all", LOGGING, report_logged(iova=LAST_PAGE, length=2 * PAGE), EOVERFLOW),
    Case("a report to the end of all", LOGGING, report_logged(iova=LAST_PAGE, length=PAGE), EOVERFLOW),
]
