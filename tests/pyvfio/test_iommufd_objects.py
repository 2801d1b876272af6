"""What every object of an iommufd does alike, and what a failure leaves of it. Simulated."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from pyvfio import CdevDevice, ClosedError, DeviceBusy, Ioas, Iommufd, Memory, MemoryKind, VfioError
from pyvfio.abi import iommufd as abi
from pyvfio.drivers.edu import edu_addresses
from pyvfio.drivers.iommufd_mock import APERTURE, MockDevice, MockDeviceFlags, MockStage1, MockViommu
from pyvfio.faults import Call, Fault, FaultyKernel
from pyvfio.iommufd import cdev_node
from pyvfio.kernel import Kernel
from pyvfio.sim import SimKernel

PAGE = 4096
IOVA = APERTURE[0]


@pytest.fixture
def kernel() -> FaultyKernel:
    return FaultyKernel(SimKernel(version=(7, 3), iommufd_test=True))


@pytest.fixture
def ioas(kernel: FaultyKernel) -> Iterator[Ioas]:
    with Ioas(kernel=kernel) as ioas:
        yield ioas
        ioas.iommufd.close()


@pytest.fixture
def device(ioas: Ioas) -> MockDevice:
    return MockDevice(ioas, MockDeviceFlags.PASID)


class Named(Iommufd):
    """A subclass with a state of its own, which its constructor sets."""

    def __init__(self, *, kernel: Kernel | None = None, path: str = "/dev/iommu", fd: int | None = None) -> None:
        self.label = "mine"
        super().__init__(kernel=kernel, path=path, fd=fd)


class Counted(CdevDevice):
    opened = 0

    def __init__(self, *arguments: object, **options: object) -> None:
        self.opened += 1
        super().__init__(*arguments, **options)  # type: ignore[arg-type]


def test_objects_of_descriptors_are_constructed_like_others() -> None:
    kernel = SimKernel(edu_devices=1)
    (address, *_) = edu_addresses(kernel)
    with Named.from_fd(kernel.open("/dev/iommu", os.O_RDWR), kernel=kernel) as iommufd:
        fd = kernel.open(cdev_node(kernel, address), os.O_RDWR)
        device = Counted.from_fd(iommufd, fd, address)
        assert (iommufd.label, device.opened, device.fd) == ("mine", 1, fd)


def test_each_tells_its_number_and_what_it_was_made_from(ioas: Ioas, device: MockDevice) -> None:
    table = ioas.page_table(device, nest_parent=True)
    viommu = table.viommu(device, MockViommu())
    nested = table.nested(device, MockStage1())
    assert repr(nested) == f"<NestedPageTable {nested.id} of <HwPageTable {table.id} of <Ioas {ioas.id}>>>"
    assert viommu.parent is table
    assert {thing.iommufd for thing in (ioas, device, table, viommu, nested)} == {ioas.iommufd}
    assert nested.stands_on(table)
    assert nested.stands_on(ioas.iommufd)
    assert not nested.stands_on(viommu)


def test_who_is_attached_is_one_record(ioas: Ioas, device: MockDevice) -> None:
    other = Ioas(ioas.iommufd)
    tables = [space.page_table(device, pasid=True) for space in (ioas, other)]
    attachments = ioas.iommufd.attachments
    device.attach(tables[0])
    device.attach(tables[1], pasid=3)
    assert (attachments.devices(ioas), attachments.devices(other)) == ((device,), (device,))
    assert attachments.devices(tables[1]) == (device,)
    device.close()
    assert (attachments.devices(ioas), attachments.devices(other), device.attached) == ((), (), None)
    assert dict(device.pasids) == {}


@pytest.mark.parametrize("is_refused", [False, True])
def test_devices_are_detached_before_what_they_go_through(is_refused: bool, ioas: Ioas, device: MockDevice) -> None:
    table = ioas.page_table(device, pasid=True)
    device.attach(table)
    device.attach(table, pasid=3)
    kernel = ioas.kernel
    assert isinstance(kernel, FaultyKernel)
    if is_refused:
        kernel.arm(Fault(request=abi.IOMMU_DESTROY, errno=errno.EIO))
        with pytest.raises(VfioError, match="does not respond"):
            table.close()
    else:
        table.close()
    kernel.arm()
    assert (table.closed, device.attached, dict(device.pasids)) == (True, ioas, {})
    if is_refused:
        # What was not destroyed is the kernel's until the iommufd is closed.
        with pytest.raises(VfioError, match="something else still uses it"):
            ioas.iommufd.close()
        assert ioas.iommufd.closed


def test_ranges_are_asked_for_again_after_a_device_or_page_table(ioas: Ioas, device: MockDevice) -> None:
    kernel = ioas.kernel
    assert isinstance(kernel, FaultyKernel)
    asked = Call("ioctl", abi.IOMMU_IOAS_IOVA_RANGES)
    counts = []
    kernel.arm()
    with Memory.allocate(MemoryKind.ANONYMOUS, PAGE, kernel=kernel) as memory:

        def map_once() -> None:
            ioas.map_dma(IOVA, memory, 0, PAGE)
            ioas.unmap_all()
            counts.append(kernel.calls.count(asked))

        map_once()
        map_once()
        table = ioas.page_table(device)
        map_once()
        table.close()
        map_once()
        map_once()
        MockDevice(ioas)
        map_once()
    assert counts == [1, 1, 2, 3, 3, 4]


def test_tracking_that_cannot_begin_is_off(ioas: Ioas, device: MockDevice) -> None:
    table = ioas.page_table(device, dirty_tracking=True)
    device.attach(table)
    kernel = ioas.kernel
    assert isinstance(kernel, FaultyKernel)
    kernel.arm(Fault(request=abi.IOMMU_IOAS_IOVA_RANGES, errno=errno.EIO))
    with pytest.raises(VfioError):
        table.track_dirty()
    kernel.arm()
    with pytest.raises(VfioError, match="refused"):
        device.mark_dirty(table, IOVA, PAGE, 1)
    with table.track_dirty():
        device.mark_dirty(table, IOVA, PAGE, 1)


def test_a_page_table_is_tracked_by_one_at_a_time(ioas: Ioas, device: MockDevice) -> None:
    """A second one would clear what the first has not read, and end it with itself."""
    table = ioas.page_table(device, dirty_tracking=True)
    device.attach(table)
    with table.track_dirty():
        with pytest.raises(DeviceBusy, match=f"{table.name} tracks already: there is one at a time"):
            table.track_dirty()
        device.mark_dirty(table, IOVA, PAGE, 1)
    table.track_dirty()


def test_nothing_is_made_of_what_is_closed(ioas: Ioas, device: MockDevice) -> None:
    table = ioas.page_table(device, nest_parent=True)
    table.close()
    for make in (
        lambda: table.nested(device, MockStage1()),
        lambda: table.viommu(device, MockViommu()),
        table.track_dirty,
        lambda: MockDevice(table),
        lambda: device.attach(table),
    ):
        with pytest.raises(ClosedError):
            make()
    assert device.attached is ioas
