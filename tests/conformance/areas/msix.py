"""A PCI Express device with MSI-X, resets and error reports: an NVMe controller. Source: vfio_pci_intrs.c."""

from errno import EAGAIN, EBADF, EFAULT, EINVAL, ENOTTY

from pyvfio.abi import vfio
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import open_container, set_iommu
from tests.conformance.calls.device import (
    events,
    get_hot_reset_info,
    get_info,
    get_irq_info,
    get_region_info,
    hot_reset,
    map_region,
    read_region,
    reset,
    set_ioeventfd,
    set_irqs,
    write_region,
)
from tests.conformance.calls.group import get_device_fd, open_group, set_container
from tests.conformance.calls.process import open_eventfd
from tests.conformance.case import Case, Expected, ok, since
from tests.conformance.step import Step

INTX, MSI, MSIX = vfio.VFIO_PCI_INTX_IRQ_INDEX, vfio.VFIO_PCI_MSI_IRQ_INDEX, vfio.VFIO_PCI_MSIX_IRQ_INDEX
ERR = vfio.VFIO_PCI_ERR_IRQ_INDEX
NONE, EVENTFD = vfio.VFIO_IRQ_SET_DATA_NONE, vfio.VFIO_IRQ_SET_DATA_EVENTFD
TRIGGER, MASK = vfio.VFIO_IRQ_SET_ACTION_TRIGGER, vfio.VFIO_IRQ_SET_ACTION_MASK
VECTORS = 7
TABLE = 0x2000
BAR_SIZE = 0x4000
CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX

_DEVICE = [
    open_container(),
    open_group(device="nvme"),
    set_container(),
    set_iommu(),
    get_device_fd(device="nvme"),
]
_READY = [*_DEVICE, open_eventfd(), open_eventfd(name="second")]


def enabled(*fds: str | int, start: int = 0) -> Step:
    return set_irqs(index=MSIX, flags=EVENTFD | TRIGGER, start=start, count=len(fds), fds=fds)


def one(index: int, fd: str | int) -> Step:
    return set_irqs(index=index, flags=EVENTFD | TRIGGER, fds=(fd,))


_FIRE = set_irqs(index=MSIX, flags=NONE | TRIGGER)
_ENABLED = [*_READY, enabled("eventfd", "second")]
_ERR = [*_READY, one(ERR, "eventfd")]


def msix_case(name: str, setup: list[Step], call: Step, answer: Expected, *after: tuple[Step, Expected]) -> Case:
    return Case(name, setup, call, answer, after=after, needs=("nvme",))


CASES = [
    msix_case("info", _DEVICE, get_info(), ok(flags=3, num_regions=9, num_irqs=5)),
    # Since 6.5 vectors come and go while others are in use, and the flag that they cannot is gone.
    msix_case(
        "MSI-X", _DEVICE, get_irq_info(index=MSIX), since({(6, 1): ok(count=VECTORS, flags=9), (6, 5): ok(flags=1)})
    ),
    msix_case("MSI, which it has not", _DEVICE, get_irq_info(index=MSI), ok(count=0)),
    msix_case("ERR", _DEVICE, get_irq_info(index=ERR), ok(count=1, flags=9)),
    msix_case("enable two", _READY, enabled("eventfd", "second"), ok(value=0)),
    msix_case("enable all", _READY, enabled(*["eventfd"] * VECTORS), ok(value=0)),
    msix_case("enable the last", _READY, enabled("eventfd", start=VECTORS - 1), ok(value=0)),
    msix_case("enable one more than there are", _READY, enabled(*["eventfd"] * (VECTORS + 1)), EINVAL),
    msix_case("enable beyond the last", _READY, enabled("eventfd", start=VECTORS), EINVAL),
    msix_case("enable across the last", _READY, enabled("eventfd", "second", start=VECTORS - 1), EINVAL),
    msix_case("enable with a gap", _READY, enabled("eventfd", -1, "second"), ok(value=0)),
    msix_case("enable none of them", _READY, enabled(-1, -1), ok(value=0)),
    msix_case("a descriptor that is none", _READY, enabled("eventfd", 1 << 20), EBADF),
    msix_case(
        "nothing stays of it", _READY, enabled(1 << 20), EBADF, (set_irqs(index=MSIX, flags=NONE | TRIGGER), EINVAL)
    ),
    msix_case(
        "enable MSI, which it has not", _READY, set_irqs(index=MSI, flags=EVENTFD | TRIGGER, fds=("eventfd",)), EINVAL
    ),
    msix_case("add one", _ENABLED, enabled("eventfd", start=2), since({(6, 1): EINVAL, (6, 5): ok(value=0)})),
    msix_case("add the last", _ENABLED, enabled("eventfd", start=VECTORS - 1), since({(6, 1): EINVAL, (6, 5): ok()})),
    msix_case("take one away", _ENABLED, enabled(-1, start=1), ok(), (enabled("second", start=1), ok())),
    msix_case("another eventfd", _ENABLED, enabled("second"), ok()),
    msix_case("INTx after MSI-X", _ENABLED, one(INTX, "eventfd"), EINVAL),
    msix_case("disable", _ENABLED, set_irqs(index=MSIX, flags=NONE | TRIGGER, count=0), ok()),
    msix_case(
        "INTx after MSI-X was disabled",
        [*_ENABLED, set_irqs(index=MSIX, flags=NONE | TRIGGER, count=0)],
        one(INTX, "eventfd"),
        ok(),
    ),
    msix_case(
        "fire one",
        _ENABLED,
        set_irqs(index=MSIX, flags=NONE | TRIGGER, start=1),
        ok(),
        (events(name="second"), ok(count=1)),
        (events(), EAGAIN),
    ),
    msix_case(
        "fire one that has no eventfd",
        [*_READY, enabled("eventfd", -1, "second")],
        set_irqs(index=MSIX, flags=NONE | TRIGGER, start=1),
        ok(),
    ),
    msix_case(
        "fire one that is not enabled",
        _ENABLED,
        set_irqs(index=MSIX, flags=NONE | TRIGGER, start=3),
        since({(6, 1): EINVAL, (6, 5): ok()}),
    ),
    msix_case("fire before any is enabled", _READY, _FIRE, EINVAL),
    msix_case("mask", _ENABLED, set_irqs(index=MSIX, flags=NONE | MASK), ENOTTY),
    # Errors.
    msix_case("enable ERR", _READY, one(ERR, "eventfd"), ok()),
    msix_case("fire ERR", _ERR, set_irqs(index=ERR, flags=NONE | TRIGGER), ok(), (events(), ok(count=1))),
    msix_case("fire ERR that is not enabled", _READY, set_irqs(index=ERR, flags=NONE | TRIGGER), EINVAL),
    msix_case("disable ERR", _ERR, set_irqs(index=ERR, flags=NONE | TRIGGER, count=0), ok()),
    msix_case("mask ERR", _ERR, set_irqs(index=ERR, flags=NONE | MASK), ENOTTY),
    msix_case("ERR, a descriptor that is none", _READY, one(ERR, 1 << 20), EBADF),
    # The table, which is the kernel's.
    msix_case("BAR 0", _DEVICE, get_region_info(index=0), ok(size=BAR_SIZE, flags=15)),
    msix_case("read the table", _DEVICE, read_region(region=0, offset=TABLE, size=8), ok(data="ff" * 8)),
    msix_case("write the table", _DEVICE, write_region(region=0, offset=TABLE, data=bytes(4)), ok(value=4)),
    msix_case("map the table", _DEVICE, map_region(offset=TABLE), ok()),
    msix_case("map all of it", _DEVICE, map_region(size=BAR_SIZE), ok()),
    msix_case("ioeventfd in the table", _READY, set_ioeventfd(flags=4, offset=TABLE), EINVAL),
    msix_case("ioeventfd into the table", _READY, set_ioeventfd(flags=4, offset=TABLE - 4), ok()),
    msix_case("ioeventfd after the table", _READY, set_ioeventfd(flags=4, offset=TABLE + PAGE), ok()),
    # Config space and resets of PCI Express.
    msix_case("config space", _DEVICE, get_region_info(index=CONFIG), ok(size=4096)),
    msix_case("the end of config space", _DEVICE, read_region(region=CONFIG, offset=4092), ok(data="00000000")),
    msix_case("beyond config space", _DEVICE, read_region(region=CONFIG, offset=4096), EFAULT),
    msix_case("reset", _DEVICE, reset(), ok(), (get_info(), ok(flags=3))),
    msix_case("reset disables nothing", _ENABLED, reset(), ok(), (enabled("second"), ok())),
    msix_case("hot reset info", _DEVICE, get_hot_reset_info(), ok(count=1)),
    msix_case("hot reset", _DEVICE, hot_reset(), ok(), (get_info(), ok(flags=3))),
]
