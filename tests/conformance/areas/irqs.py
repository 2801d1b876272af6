"""SET_IRQS. Source: vfio_set_irqs_validate_and_prepare, vfio_pci_set_irqs_ioctl."""

from errno import EAGAIN, EBADF, EFAULT, EINVAL, ENOTTY

from pyvfio.abi import vfio
from tests.conformance.areas.device_info import ERR, INTX, MSI, MSIX, REQ
from tests.conformance.areas.setups import DEVICE
from tests.conformance.calls.device import events, read_region, set_irqs, write_region
from tests.conformance.calls.process import open_eventfd, open_file
from tests.conformance.case import Case, ok

NONE, BOOL, EVENTFD = vfio.VFIO_IRQ_SET_DATA_NONE, vfio.VFIO_IRQ_SET_DATA_BOOL, vfio.VFIO_IRQ_SET_DATA_EVENTFD
MASK, UNMASK, TRIGGER = (
    vfio.VFIO_IRQ_SET_ACTION_MASK,
    vfio.VFIO_IRQ_SET_ACTION_UNMASK,
    vfio.VFIO_IRQ_SET_ACTION_TRIGGER,
)
_ENABLE, _FIRE = EVENTFD | TRIGGER, NONE | TRIGGER

_READY = [*DEVICE, open_eventfd(), open_eventfd(name="second")]
_MSI = [*_READY, set_irqs(index=MSI, flags=_ENABLE, fds=("eventfd",))]
_INTX = [*_READY, set_irqs(index=INTX, flags=_ENABLE, fds=("eventfd",))]
_REQ = [*_READY, set_irqs(index=REQ, flags=_ENABLE, fds=("eventfd",))]
_RAISE = write_region(region=0, offset=0x60, data=b"\1\0\0\0")
_LOWER = write_region(region=0, offset=0x64, data=b"\1\0\0\0")
_MASTER = write_region(region=7, offset=4, data=b"\x06\0")

CASES = [
    Case("enable MSI", _READY, set_irqs(index=MSI, flags=_ENABLE, fds=("eventfd",)), ok(value=0)),
    Case("enable INTx", _READY, set_irqs(index=INTX, flags=_ENABLE, fds=("eventfd",)), ok(value=0)),
    Case("enable REQ", _READY, set_irqs(index=REQ, flags=_ENABLE, fds=("eventfd",)), ok(value=0)),
    Case(
        "enable ERR, which it has not",
        _READY,
        set_irqs(index=ERR, flags=_ENABLE, fds=("eventfd",)),
        EINVAL,
        versions=((0, 0), (6, 99)),
    ),
    Case("enable MSI-X, which it has not", _READY, set_irqs(index=MSIX, flags=_ENABLE, fds=("eventfd",)), EINVAL),
    Case("enable MSI with none", _READY, set_irqs(index=MSI, flags=_ENABLE, fds=(-1,)), ok(value=0)),
    Case("enable INTx with none", _READY, set_irqs(index=INTX, flags=_ENABLE, fds=(-1,)), ok()),
    Case("a descriptor that is none", _READY, set_irqs(index=MSI, flags=_ENABLE, fds=(1 << 20,)), EBADF),
    Case(
        "a descriptor that is no eventfd",
        [*_READY, open_file()],
        set_irqs(index=MSI, flags=_ENABLE, fds=("file",)),
        EINVAL,
    ),
    Case("INTx: a descriptor that is none", _READY, set_irqs(index=INTX, flags=_ENABLE, fds=(1 << 20,)), EBADF),
    Case("INTx: no eventfd", [*_READY, open_file()], set_irqs(index=INTX, flags=_ENABLE, fds=("file",)), EINVAL),
    Case("REQ: a descriptor that is none", _READY, set_irqs(index=REQ, flags=_ENABLE, fds=(1 << 20,)), EBADF),
    Case("MSI after INTx", _INTX, set_irqs(index=MSI, flags=_ENABLE, fds=("second",)), EINVAL),
    Case("INTx after MSI", _MSI, set_irqs(index=INTX, flags=_ENABLE, fds=("second",)), EINVAL),
    Case("REQ after MSI", _MSI, set_irqs(index=REQ, flags=_ENABLE, fds=("second",)), ok()),
    Case(
        "MSI with another eventfd",
        _MSI,
        set_irqs(index=MSI, flags=_ENABLE, fds=("second",)),
        ok(),
        after=[(set_irqs(index=MSI, flags=_FIRE), ok()), (events(name="second"), ok(count=1)), (events(), EAGAIN)],
    ),
    Case("MSI with the same eventfd", _MSI, set_irqs(index=MSI, flags=_ENABLE, fds=("eventfd",)), ok()),
    Case("INTx with another eventfd", _INTX, set_irqs(index=INTX, flags=_ENABLE, fds=("second",)), ok()),
    Case(
        "take MSI's eventfd away",
        _MSI,
        set_irqs(index=MSI, flags=_ENABLE, fds=(-1,)),
        ok(),
        after=[(set_irqs(index=MSI, flags=_FIRE), ok()), (events(), EAGAIN)],
    ),
    Case("take REQ's eventfd away", _REQ, set_irqs(index=REQ, flags=_ENABLE, fds=(-1,)), ok()),
    Case(
        "disable MSI",
        _MSI,
        set_irqs(index=MSI, flags=_FIRE, count=0),
        ok(),
        after=[(set_irqs(index=MSI, flags=_FIRE), EINVAL)],
    ),
    Case("disable INTx", _INTX, set_irqs(index=INTX, flags=_FIRE, count=0), ok()),
    Case("disable REQ", _REQ, set_irqs(index=REQ, flags=_FIRE, count=0), ok()),
    Case("disable MSI that is not enabled", _READY, set_irqs(index=MSI, flags=_FIRE, count=0), EINVAL),
    Case("disable INTx that is not enabled", _READY, set_irqs(index=INTX, flags=_FIRE, count=0), EINVAL),
    Case("disable REQ that is not enabled", _READY, set_irqs(index=REQ, flags=_FIRE, count=0), EINVAL),
    Case("disable MSI while INTx is on", _INTX, set_irqs(index=MSI, flags=_FIRE, count=0), EINVAL),
    Case("disable MSI-X, which it has not", _READY, set_irqs(index=MSIX, flags=_FIRE, count=0), EINVAL),
    Case(
        "MSI after INTx was disabled",
        [*_INTX, set_irqs(index=INTX, flags=_FIRE, count=0)],
        set_irqs(index=MSI, flags=_ENABLE, fds=("eventfd",)),
        ok(),
    ),
    Case("fire MSI", _MSI, set_irqs(index=MSI, flags=_FIRE), ok(), after=[(events(), ok(count=1)), (events(), EAGAIN)]),
    Case(
        "fire MSI twice",
        [*_MSI, set_irqs(index=MSI, flags=_FIRE)],
        set_irqs(index=MSI, flags=_FIRE),
        ok(),
        after=[(events(), ok(count=2))],
    ),
    Case(
        "fire MSI by a bool",
        _MSI,
        set_irqs(index=MSI, flags=BOOL | TRIGGER, bools=(1,)),
        ok(),
        after=[(events(), ok(count=1))],
    ),
    Case(
        "fire MSI by a bool that is none",
        _MSI,
        set_irqs(index=MSI, flags=BOOL | TRIGGER, bools=(0,)),
        ok(),
        after=[(events(), EAGAIN)],
    ),
    Case("fire MSI that is not enabled", _READY, set_irqs(index=MSI, flags=_FIRE), EINVAL),
    Case("fire INTx", _INTX, set_irqs(index=INTX, flags=_FIRE), ok(), after=[(events(), ok(count=1))]),
    Case(
        "fire INTx by a bool",
        _INTX,
        set_irqs(index=INTX, flags=BOOL | TRIGGER, bools=(1,)),
        ok(),
        after=[(events(), ok(count=1))],
    ),
    Case("fire INTx that is not enabled", _READY, set_irqs(index=INTX, flags=_FIRE), EINVAL),
    Case("fire REQ", _REQ, set_irqs(index=REQ, flags=_FIRE), ok(), after=[(events(), ok(count=1))]),
    Case(
        "fire REQ by a bool",
        _REQ,
        set_irqs(index=REQ, flags=BOOL | TRIGGER, bools=(1,)),
        ok(),
        after=[(events(), ok(count=1))],
    ),
    Case("fire REQ that is not enabled", _READY, set_irqs(index=REQ, flags=_FIRE), EINVAL),
    Case("the device raises MSI", [*_MSI, _MASTER], _RAISE, ok(), after=[(_LOWER, ok()), (events(), ok(count=1))]),
    Case("the device raises INTx", [*_INTX, _MASTER], _RAISE, ok(), after=[(events(), ok(count=1)), (_LOWER, ok())]),
    Case(
        "INTx masked",
        [*_INTX, set_irqs(index=INTX, flags=NONE | MASK)],
        _RAISE,
        ok(),
        after=[(events(), EAGAIN), (_LOWER, ok())],
    ),
    Case(
        "INTx comes when it is unmasked",
        [*_INTX, set_irqs(index=INTX, flags=NONE | MASK), _RAISE],
        set_irqs(index=INTX, flags=NONE | UNMASK),
        ok(),
        after=[(events(), ok(count=1)), (_LOWER, ok())],
    ),
    Case(
        "mask INTx by a bool",
        _INTX,
        set_irqs(index=INTX, flags=BOOL | MASK, bools=(1,)),
        ok(),
        after=[(_RAISE, ok()), (events(), EAGAIN), (_LOWER, ok())],
    ),
    Case(
        "mask INTx by a bool that is none",
        _INTX,
        set_irqs(index=INTX, flags=BOOL | MASK, bools=(0,)),
        ok(),
        after=[(_RAISE, ok()), (events(), ok(count=1)), (_LOWER, ok())],
    ),
    Case("mask INTx by an eventfd", _INTX, set_irqs(index=INTX, flags=EVENTFD | MASK, fds=("second",)), ENOTTY),
    Case("unmask INTx by an eventfd", _INTX, set_irqs(index=INTX, flags=EVENTFD | UNMASK, fds=("second",)), ok()),
    Case("unmask INTx by none", _INTX, set_irqs(index=INTX, flags=EVENTFD | UNMASK, fds=(-1,)), ok()),
    Case("mask INTx that is not enabled", _READY, set_irqs(index=INTX, flags=NONE | MASK), EINVAL),
    Case("unmask INTx that is not enabled", _READY, set_irqs(index=INTX, flags=NONE | UNMASK), EINVAL),
    Case("mask INTx, count 0", _INTX, set_irqs(index=INTX, flags=NONE | MASK, count=0), EINVAL),
    Case("mask MSI", _MSI, set_irqs(index=MSI, flags=NONE | MASK), ENOTTY),
    Case("unmask MSI", _MSI, set_irqs(index=MSI, flags=NONE | UNMASK), ENOTTY),
    Case("mask MSI that is not enabled", _READY, set_irqs(index=MSI, flags=NONE | MASK), ENOTTY),
    Case("mask REQ", _REQ, set_irqs(index=REQ, flags=NONE | MASK), ENOTTY),
    Case("no action", _MSI, set_irqs(index=MSI, flags=NONE), ENOTTY),
    Case("two actions", _MSI, set_irqs(index=MSI, flags=NONE | TRIGGER | MASK), ENOTTY),
    Case("no data type", _MSI, set_irqs(index=MSI, flags=TRIGGER), EINVAL),
    Case("two data types", _MSI, set_irqs(index=MSI, flags=NONE | BOOL | TRIGGER), EINVAL),
    Case("unknown flag", _MSI, set_irqs(index=MSI, flags=_FIRE | 64), EINVAL),
    Case("no flag", _MSI, set_irqs(index=MSI, flags=0), EINVAL),
    Case("irq 5", _READY, set_irqs(index=5, flags=_FIRE), EINVAL),
    Case("irq -1", _READY, set_irqs(index=0xFFFF_FFFF, flags=_FIRE), EINVAL),
    Case("start beyond the last", _MSI, set_irqs(index=MSI, flags=_FIRE, start=1), EINVAL),
    Case("count beyond the last", _MSI, set_irqs(index=MSI, flags=_ENABLE, count=2, fds=("eventfd", "second")), EINVAL),
    Case("start and count wrap", _MSI, set_irqs(index=MSI, flags=_FIRE, start=1, count=0xFFFF_FFFF), EINVAL),
    Case("count -1", _MSI, set_irqs(index=MSI, flags=_FIRE, count=0xFFFF_FFFF), EINVAL),
    Case("argsz one byte short", _MSI, set_irqs(index=MSI, flags=_FIRE, argsz=19), EINVAL),
    Case("argsz without the eventfd", _MSI, set_irqs(index=MSI, flags=_ENABLE, fds=("eventfd",), argsz=23), EINVAL),
    Case("argsz without the bool", _MSI, set_irqs(index=MSI, flags=BOOL | TRIGGER, bools=(1,), argsz=20), EINVAL),
    Case("a larger argsz", _MSI, set_irqs(index=MSI, flags=_FIRE, argsz=100), ok()),
    Case("struct one byte short", _MSI, set_irqs(index=MSI, flags=_FIRE, reach=19), EFAULT),
    Case("no struct", _MSI, set_irqs(index=MSI, flags=_FIRE, reach=0), EFAULT),
    Case("the eventfd cannot be read", _MSI, set_irqs(index=MSI, flags=_ENABLE, fds=("eventfd",), reach=20), EFAULT),
    Case("eventfds, count 0", _MSI, set_irqs(index=MSI, flags=_ENABLE, count=0), ok()),
    Case(
        "closing the device ends its interrupts",
        [*_MSI, _MASTER, _RAISE, _LOWER],
        read_region(region=0),
        ok(),
        after=[(events(), ok(count=1))],
    ),
]
