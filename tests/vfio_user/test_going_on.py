"""A process that goes on with a session of one before it: the client notices nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from pyvfio import Container, IommuType
from pyvfio.abi import pci_regs, vfio
from pyvfio.vfio_user import GuestMemory, ServedDevice, Server, SessionRecord
from tests.support.vfio_user.bench import MIB, Bench, RawClient, serve

MSIX = vfio.VFIO_PCI_MSIX_IRQ_INDEX
CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX
TRIGGER = vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
FIRE = vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER


def begin(bench: Bench, client: RawClient, ram: int, fds: list[int]) -> None:
    """What a guest's driver sets up."""
    client.map(0, 16 * MIB, ram)
    client.map(1 << 32, 1 << 21)
    bench.pass_time()
    assert not client.receive().error
    assert not client.receive().error
    assert not client.set_irqs(TRIGGER, MSIX, 0, len(fds), fds).error
    client.write(CONFIG, pci_regs.PCI_COMMAND, b"\6\0")


def test_a_successor_goes_on_with_the_connection(
    bench: Bench, client: RawClient, ram: int, events: Callable[[int], list[int]]
) -> None:
    fds = events(2)
    begin(bench, client, ram, fds)
    assert bench.server.settled
    record = bench.server.record()
    assert record is not None
    kept = json.dumps(record.data())
    kernel = bench.kernel
    container, device = (kernel.dup(fd) for fd in (bench.container.fd, bench.device.fd))
    connection = bench.server.hand_over()
    assert connection is not None
    # Nothing was asked of the device, nor of the client.
    assert bench.mappings == [(0, MIB, 3), (MIB, 15 * MIB, 3)]
    assert bench.device.config.bus_master

    with Container.from_fd(container, kernel=kernel, iommu_type=IommuType.TYPE1v2) as space:
        # It is the same device: another object of it, as a successor has.
        from pyvfio import Device

        with Device(device, bench.device.address, kernel=kernel) as again:
            memory = GuestMemory(space, takes_up=True)
            server = Server.from_connection(
                connection,
                SessionRecord.parse(json.loads(kept)),
                ServedDevice(again),
                memory.listener(),
                files=lambda _: ram,
                clock=bench.clock,
            )
            successor = RawClient.__new__(RawClient)
            successor.socket, successor._settle, successor._number = client.socket, lambda: serve(server), 100
            assert [(run.iova, run.size) for run in space.mappings()] == [(0, MIB), (MIB, 15 * MIB)]
            assert successor.read(CONFIG, 0, 2).payload[16:] == b"\xf4\x1a"
            assert not successor.set_irqs(FIRE, MSIX, 0, 1).error
            assert os.eventfd_read(fds[0]) == 1
            # What was told of before is known: also what was not mapped.
            successor.unmap(1 << 32, 1 << 21)
            successor.unmap(0, 16 * MIB)
            serve(server)
            bench.clock.now += 1
            server.flush_events()
            assert (successor.receive().error, successor.receive().error) == (0, 0)
            assert space.mappings() == ()
            server.close()
            assert not again.config.bus_master
