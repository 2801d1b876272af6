"""Migration states: of a simulated device, and of mtty, the kernel's sample of a mediated device with a serial port."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pyvfio import (
    Device,
    Feature,
    FeatureAccess,
    IovaRange,
    Kernel,
    MigrationKinds,
    MigrationState,
    MigrationStream,
    VfioError,
)
from pyvfio.sim.devices import PlainDevice
from tests.support.kernels.mediated import mediated_device

pytestmark = pytest.mark.needs("type1", "mdev")

SCRATCH = 7
"""A register of the serial port that only keeps what it is given."""


@pytest.fixture
def device(kernel: Kernel) -> Iterator[Device]:
    with mediated_device(kernel, "mtty", "1", PlainDevice) as device:
        yield device


@pytest.fixture
def destination(kernel: Kernel) -> Iterator[Device]:
    with mediated_device(kernel, "mtty", "1", PlainDevice) as device:
        yield device


def stream_of(device: Device, state: MigrationState) -> MigrationStream:
    stream = device.migration().enter(state)
    assert stream is not None
    return stream


def load(device: Device, data: bytes) -> None:
    with stream_of(device, MigrationState.RESUMING) as stream:
        stream.write(data)
    device.migration().enter(MigrationState.RUNNING)


def test_what_a_device_says_of_its_states(device: Device) -> None:
    migration = device.migration()
    assert MigrationKinds.STOP_COPY in migration.kinds
    assert migration.stop_copy_length > 0
    assert device.features.probe(Feature.MIG_DEVICE_STATE) == FeatureAccess.GET | FeatureAccess.SET
    states = [migration.state]
    for state in (MigrationState.STOP, MigrationState.RUNNING):
        assert migration.enter(state) is None
        states.append(migration.state)
    assert states == [MigrationState.RUNNING, MigrationState.STOP, MigrationState.RUNNING]


def test_a_stream_has_no_positions(kernel: Kernel, device: Device) -> None:
    with stream_of(device, MigrationState.STOP_COPY) as stream:
        for call in (lambda: kernel.pread(stream.fd, 1, 0), lambda: kernel.pwrite(stream.fd, b"1", 0)):
            with pytest.raises(OSError, match="Illegal seek"):
                call()


def test_a_stopped_device_goes_on_elsewhere(device: Device, destination: Device) -> None:
    device.region(0).write8(SCRATCH, 0x5A)
    assert destination.region(0).read8(SCRATCH) != 0x5A
    with stream_of(device, MigrationState.STOP_COPY) as stream:
        data = stream.read_all()
    load(destination, data)
    assert destination.migration().state is MigrationState.RUNNING
    assert destination.region(0).read8(SCRATCH) == 0x5A


def test_a_running_device_is_copied_before_it_stops(device: Device, destination: Device) -> None:
    if MigrationKinds.PRE_COPY not in device.migration().kinds:
        pytest.skip("this kernel's mtty has no PRE_COPY")
    device.region(0).write8(SCRATCH, 0x11)
    stream = stream_of(device, MigrationState.PRE_COPY)
    info = stream.precopy_info()
    assert (info.initial_bytes >= 0, info.begins_anew) == (True, False)
    data = stream.read_all()
    device.region(0).write8(SCRATCH, 0xA5)
    assert device.migration().enter(MigrationState.STOP_COPY) is None
    with pytest.raises(VfioError, match="not in PRE_COPY"):
        stream.precopy_info()
    load(destination, data + stream.read_all())
    stream.close()
    assert destination.region(0).read8(SCRATCH) == 0xA5


def test_ways_that_there_are_not(device: Device) -> None:
    migration = device.migration()
    # The sample has them, the simulated device has not.
    if MigrationKinds.P2P not in migration.kinds:
        with pytest.raises(VfioError, match="the device has no such state") as caught:
            migration.enter(MigrationState.RUNNING_P2P)
        assert caught.value.errno == errno.EINVAL
    assert migration.state is MigrationState.RUNNING
    stream_of(device, MigrationState.STOP_COPY).close()
    with pytest.raises(VfioError, match="there is no way from STOP_COPY to it"):
        migration.enter(MigrationState.PRE_COPY)


def test_a_reset_lets_a_device_run_again(device: Device) -> None:
    stream_of(device, MigrationState.RESUMING).close()
    device.reset()
    assert device.migration().state is MigrationState.RUNNING


def test_a_device_that_writes_nothing_logs_nothing(device: Device) -> None:
    """mtty takes every call, and does no DMA."""
    with device.log_dma(IovaRange(0x10_0000, 0x1F_FFFF)) as log:
        assert log.read(0x10_0000, 0x10_0000).runs() == ()
    with device.log_dma(IovaRange(0x10_0000, 0x10_0FFF), IovaRange(0x20_0000, 0x20_0FFF)):
        pass
