"""Parents, children and their locks: what a second thread sees while a group comes, goes or is closed."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from pyvfio import (
    ClosedError,
    Container,
    Device,
    Group,
    InterruptIndex,
    Memory,
    MemoryKind,
)
from pyvfio.abi import vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import FaultyKernel
from pyvfio.faults.rules import Hold, Rule
from pyvfio.resource import Resource
from pyvfio.sim import SimKernel
from pyvfio.sysfs import pci_device

PATIENCE = 10.0
MOMENT = 0.2
IOVA = 0x1_0000_0000


@pytest.fixture
def kernel() -> FaultyKernel:
    return FaultyKernel(SimKernel(edu_devices=2))


@pytest.fixture
def container(kernel: FaultyKernel) -> Iterator[Container]:
    with Container(kernel=kernel) as container:
        yield container


@pytest.fixture
def group(kernel: FaultyKernel) -> Group:
    number = pci_device(kernel, edu_addresses(kernel)[0]).group
    assert number is not None
    return Group(number, kernel=kernel)


@contextmanager
def thread(function: Callable[[], object]) -> Iterator[threading.Thread]:
    """A thread that runs function, and has ended when the block is left."""
    running = threading.Thread(target=function, daemon=True)
    running.start()
    yield running
    running.join(PATIENCE)
    assert not running.is_alive()


@contextmanager
def held(kernel: FaultyKernel, name: str, request: int | None = None) -> Iterator[Hold]:
    """The first such call lasts until the block is left, or released is set."""
    hold = Hold(0, name, request)
    kernel.arm(hold)
    try:
        yield hold
    finally:
        hold.released.set()


def test_a_group_is_not_closed_in_the_middle_of_its_attachment(
    kernel: FaultyKernel, container: Container, group: Group
) -> None:
    with held(kernel, "ioctl", vfio.VFIO_GROUP_SET_CONTAINER) as hold, thread(lambda: container.attach(group)):
        assert hold.reached.wait(PATIENCE)
        with thread(group.close) as closing:
            closing.join(MOMENT)
            was_closed = group.closed
            hold.released.set()
    assert (was_closed, group.closed) == (False, True)
    assert container.groups == ()
    assert container.iommu_type is None


def test_who_waits_for_a_group_while_it_leaves_does_not_hold_up_its_former_container(
    kernel: FaultyKernel, container: Container, group: Group
) -> None:
    container.attach(group)
    leaving = Hold(0, "ioctl", vfio.VFIO_GROUP_UNSET_CONTAINER)
    closing = Hold(0, "close")
    kernel.arm(leaving, closing)
    with thread(lambda: container.detach(group)):
        assert leaving.reached.wait(PATIENCE)
        with thread(group.close) as waiting:
            waiting.join(MOMENT)
            leaving.released.set()
            assert closing.reached.wait(PATIENCE)
            try:
                with thread(container.mappings) as other:
                    other.join(MOMENT)
                    is_free = not other.is_alive()
                    closing.released.set()
            finally:
                closing.released.set()
    assert is_free
    assert group.closed


def test_a_group_that_leaves_while_threads_wait_to_close_it_is_closed_once(
    kernel: FaultyKernel, container: Container, group: Group
) -> None:
    container.attach(group)
    start = threading.Barrier(5)

    def close() -> None:
        start.wait()
        group.close()

    with held(kernel, "ioctl", vfio.VFIO_GROUP_UNSET_CONTAINER) as hold, ExitStack() as threads:
        threads.enter_context(thread(lambda: container.detach(group)))
        assert hold.reached.wait(PATIENCE)
        for _ in range(4):
            threads.enter_context(thread(close))
        start.wait()
        hold.released.set()
    assert group.closed
    assert container.groups == ()
    assert sum(call.name == "close" for call in kernel.calls) == 1


@pytest.mark.parametrize("_", range(20))
def test_containers_that_close_while_their_groups_change_places(_: int) -> None:
    """No thread waits for another one that waits for it, and none uses a descriptor that is closed."""
    kernel = SimKernel(edu_devices=2)
    numbers = [pci_device(kernel, address).group for address in edu_addresses(kernel)]
    one, other = Container(kernel=kernel), Container(kernel=kernel)
    groups = [
        Group(number or 0, kernel=kernel, container=parent)
        for number, parent in zip(numbers, (one, other), strict=True)
    ]
    start = threading.Barrier(4)

    def run(step: Callable[[], object]) -> None:
        start.wait()
        with suppress(ClosedError):
            step()

    steps = [lambda: one.attach(groups[1]), lambda: other.attach(groups[0]), one.close, other.close]
    threads = [threading.Thread(target=run, args=(step,), daemon=True) for step in steps]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert not any(each.is_alive() for each in threads)
    for resource in (*groups, one, other):
        resource.close()


def test_a_device_is_used_while_its_container_maps(kernel: FaultyKernel, container: Container) -> None:
    device = container.open_device(edu_addresses(kernel)[0])
    done: list[int] = []

    def use(device: Device) -> None:
        device.config.enable_bus_master()
        done.append(device.region(0).read32(0))
        device.interrupts(InterruptIndex.MSI).enable()

    with Memory.allocate(MemoryKind.ANONYMOUS, 1 << 20, kernel=kernel) as memory:
        with (
            held(kernel, "ioctl", vfio.VFIO_IOMMU_MAP_DMA) as hold,
            thread(lambda: container.map_dma(IOVA, memory, 0, memory.size)),
        ):
            assert hold.reached.wait(PATIENCE)
            with thread(lambda: use(device)) as using:
                using.join(PATIENCE)
                assert done == [0x0100_00ED]
                hold.released.set()
        container.unmap_all()


def test_what_could_not_be_opened_is_not_missed() -> None:
    parent = Resource()
    parent.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ClosedError):
            Resource(parent)
        gc.collect()


def test_a_group_received_is_closed_with_the_failure(kernel: FaultyKernel) -> None:
    container = Container(kernel=kernel)
    container.close()
    fd = kernel.open("/dev/vfio/vfio", 2)
    kernel.arm(Rule())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ClosedError):
            Group.from_fd(fd, 7, kernel=kernel, container=container)
        gc.collect()
    assert [call.name for call in kernel.calls] == ["close"]
