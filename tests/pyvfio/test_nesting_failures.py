"""What iommufd's page tables, queues and virtual IOMMUs do when system calls fail, one after the other."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable

import pytest

from pyvfio import FaultQueue, Ioas, Memory, MemoryKind, NotMapped, VfioError
from pyvfio.abi import iommufd as abi
from pyvfio.abi.iommufd_test import IOMMU_TEST_CMD
from pyvfio.drivers.iommufd_mock import (
    APERTURE,
    EVENT_SIZE,
    EVENTS,
    QUEUES,
    MockDevice,
    MockInvalidation,
    MockStage1,
    MockViommu,
)
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.sim import SimKernel

PAGE = 4096
IOVA = APERTURE[0]


class Guest:
    """One of everything, made in this order."""

    def __init__(self, ioas: Ioas, memory: Memory) -> None:
        self.ioas = ioas
        self.ioas.map_dma(IOVA, memory, 0, PAGE)
        self.device = MockDevice(self.ioas)
        self.tracking = self.ioas.page_table(self.device, dirty_tracking=True).track_dirty()
        self.faults = FaultQueue(self.ioas.iommufd)
        self.parent = self.ioas.page_table(self.device, nest_parent=True)
        self.viommu = self.parent.viommu(self.device, MockViommu())
        self.vdevice = self.viommu.device(self.device, 7)
        self.nested = self.viommu.nested(self.device, MockStage1(), faults=self.faults)
        self.device.attach(self.nested)
        self.events = self.viommu.event_queue(EVENTS, 4, event_size=EVENT_SIZE)
        self.queue = self.viommu.hw_queue(QUEUES, 0, IOVA, PAGE)


@pytest.fixture
def simulated() -> SimKernel:
    return SimKernel(version=(7, 3), iommufd_test=True)


@pytest.fixture
def kernel(simulated: SimKernel) -> FaultyKernel:
    return FaultyKernel(simulated)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_failure_at_any_call_leaves_nothing_behind(kernel: FaultyKernel, simulated: SimKernel) -> None:
    with Memory.allocate(MemoryKind.ANONYMOUS, PAGE, kernel=kernel) as memory:
        memory.populate(0, PAGE)
        Guest(Ioas(kernel=kernel), memory).ioas.iommufd.close()
        # What earlier tests have left must not go meanwhile.
        gc.collect()
        before, calls = descriptors(), 0
        while True:
            kernel.arm(Fault(calls, errno=errno.EIO))
            ioas: Ioas | None = None
            try:
                ioas = Ioas(kernel=kernel)
                Guest(ioas, memory)
                is_failed = False
            except OSError:
                is_failed = True
            kernel.arm()
            if ioas is not None:
                ioas.iommufd.close()
            assert descriptors() <= before
            assert simulated.charges.pinned == 0
            if not is_failed:
                break
            calls += 1
        assert calls > 15


def test_a_failure_at_any_call_while_closing_still_closes_all(kernel: FaultyKernel, simulated: SimKernel) -> None:
    with Memory.allocate(MemoryKind.ANONYMOUS, PAGE, kernel=kernel) as memory:
        memory.populate(0, PAGE)
        calls = 0
        while True:
            guest = Guest(Ioas(kernel=kernel), memory)
            kernel.arm(Fault(calls, request=abi.IOMMU_DESTROY, errno=errno.EIO))
            try:
                guest.ioas.iommufd.close()
                is_failed = False
            except VfioError:
                is_failed = True
            kernel.arm()
            assert all(thing.closed for thing in vars(guest).values())
            # The iommufd takes along what could not be destroyed.
            assert simulated.charges.pinned == 0
            if not is_failed:
                break
            calls += 1
        assert calls == 10


Act = Callable[[Guest], object]
ANYWHERE = (errno.ENOENT, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBUSY, errno.ENOMEM, errno.EFAULT, errno.EINVAL)
ROWS: list[tuple[Act, int, tuple[int, ...]]] = [
    (lambda guest: FaultQueue(guest.ioas.iommufd), abi.IOMMU_FAULT_QUEUE_ALLOC, (*ANYWHERE, errno.EMFILE)),
    (lambda guest: guest.parent.nested(guest.device, MockStage1()), abi.IOMMU_HWPT_ALLOC, ANYWHERE),
    (lambda guest: guest.parent.viommu(guest.device, MockViommu()), abi.IOMMU_VIOMMU_ALLOC, ANYWHERE),
    (lambda guest: guest.viommu.device(guest.device, 1), abi.IOMMU_VDEVICE_ALLOC, (*ANYWHERE, errno.EEXIST)),
    (
        lambda guest: guest.viommu.event_queue(EVENTS, 1, event_size=4),
        abi.IOMMU_VEVENTQ_ALLOC,
        (*ANYWHERE, errno.EEXIST, errno.EMFILE),
    ),
    (
        lambda guest: guest.viommu.hw_queue(QUEUES, 1, IOVA, PAGE),
        abi.IOMMU_HW_QUEUE_ALLOC,
        (*ANYWHERE, errno.EEXIST, errno.EIO, errno.EOVERFLOW),
    ),
    (
        lambda guest: guest.nested.invalidate([MockInvalidation()]),
        abi.IOMMU_HWPT_INVALIDATE,
        (*ANYWHERE, errno.EIO, errno.ETIMEDOUT),
    ),
    (lambda guest: guest.tracking.read(IOVA, PAGE), abi.IOMMU_HWPT_GET_DIRTY_BITMAP, ANYWHERE),
    (lambda guest: guest.device.attach(guest.parent), IOMMU_TEST_CMD, (*ANYWHERE, errno.ENODEV, errno.EADDRINUSE)),
    (lambda guest: MockDevice(guest.ioas), IOMMU_TEST_CMD, ANYWHERE),
]


@pytest.mark.parametrize(("act", "request_number", "errnos"), ROWS)
def test_every_errno_is_explained(act: Act, request_number: int, errnos: tuple[int, ...], kernel: FaultyKernel) -> None:
    with Memory.allocate(MemoryKind.ANONYMOUS, PAGE, kernel=kernel) as memory:
        memory.populate(0, PAGE)
        guest = Guest(Ioas(kernel=kernel), memory)
        for code in errnos:
            kernel.arm(Fault(request=request_number, errno=code))
            with pytest.raises(VfioError) as caught:
                act(guest)
            kernel.arm()
            assert caught.value.errno == code
            assert caught.value.meaning != os.strerror(code)
            assert caught.value.advice
            is_queue = request_number == abi.IOMMU_HW_QUEUE_ALLOC
            assert isinstance(caught.value, NotMapped) == (is_queue and code == errno.ENOENT)
        guest.ioas.iommufd.close()
