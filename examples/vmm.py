"""A monitor that keeps its devices to itself: it lends its container to a running virtiomem serve, which maps into it
what the guest has plugged, block by block, and unmaps it again.

    virtiomem serve --vhost-user /run/vm/mem.sock --region 2G --name vm0 &
    qemu-system-x86_64 ... as docs/vhost-user.md has it; virtiomem resize 512M
    pyvfio bind 0000:00:03.0 && python examples/vmm.py 0000:00:03.0 /run/virtiomem/vm0.sock

The device is edu, QEMU's teaching device. No server opens it, and none of its mappings is the server's to take.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvfio import Container, Kernel, LinuxKernel, Memory, MemoryKind
from pyvfio.drivers.edu import Edu
from virtiomem import Run
from virtiomem.control import ControlClient

STAGING = 0x1000_0000  # where the device sees memory of the monitor's own: any address where the guest has no region
SIZE = 1024  # bytes of a transfer; the device's buffer has 4096
PATIENCE = 60.0


@contextmanager
def lent(client: ControlClient, container: Container) -> Iterator[str]:
    """For the length of a with block the server keeps what is plugged mapped in container; the name it has there.

    The server gets a copy of the descriptor. What it maps is pinned and charged to the server.
    """
    space = client.lend_container(container.fd, name=f"monitor-{os.getpid()}")
    try:
        yield space.name
    finally:
        client.remove_space(space.name)


def first_plugged(client: ControlClient) -> Run:
    """The first plugged run of any device, in guest-physical bytes; wait until there is one."""
    revision = -1
    while True:
        later, devices = client.show(after=revision, timeout=PATIENCE)
        for device in devices:
            if device.plugged:
                return device.plugged[0]
        if later == revision:
            raise TimeoutError(f"no guest has plugged anything for {PATIENCE:.0f} seconds: virtiomem resize")
        revision = later


def write(engine: Edu, staging: Memory, address: int, content: bytes) -> None:
    """Have the device write content to the guest's memory."""
    staging.write(0, content)
    engine.fetch(STAGING, len(content))
    engine.store(address, len(content))


def read(engine: Edu, staging: Memory, address: int, size: int) -> bytes:
    """Have the device read the guest's memory."""
    engine.fetch(address, size)
    engine.store(STAGING, size)
    return staging.read(0, size)


def transfer(engine: Edu, staging: Memory, run: Run) -> None:
    """Read what the guest has at the end of what it has plugged, write something else, and put it back."""
    address = run.end - SIZE
    before = read(engine, staging, address, SIZE)
    message = bytes(byte ^ 0xFF for byte in before)
    write(engine, staging, address, message)
    assert read(engine, staging, address, SIZE) == message
    write(engine, staging, address, before)
    print(f"{SIZE} bytes at {address:#x} written, read and put back by the device")


def main(kernel: Kernel, address: str, control: Path) -> None:
    with (
        Container(kernel=kernel) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, 1 << 20, kernel=kernel) as staging,
        ControlClient(control) as client,
    ):
        # A group first: a container without one has no IOMMU that anything could be mapped in.
        device = container.open_device(address)
        staging.populate(0, staging.size)
        container.map_dma(STAGING, staging, 0, staging.size)
        with Edu(device) as engine, lent(client, container) as name:
            transfer(engine, staging, first_plugged(client))
            (space,) = (space for space in client.spaces() if space.name == name)
            print(f"{space.name}: {space.mappings} mappings by the server, {container.mapping_count} by the monitor")


if __name__ == "__main__":
    main(LinuxKernel(), sys.argv[1], Path(sys.argv[2]))
