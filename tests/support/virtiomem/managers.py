"""A manager in this process, on the simulated kernel, with its control socket; and what one says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from pyvfio import MemoryKind
from pyvfio.faults import FaultyKernel, Rule
from pyvfio.sim import SimKernel
from virtiomem import Run
from virtiomem.control import ControlClient, ControlServer, DeviceStatus
from virtiomem.stand_in import Manager, ManagerOptions

MIB = 1 << 20
BLOCK = 2 * MIB
ADDRESS = 1 << 32


@dataclass(slots=True)
class Running:
    """stops: how often somebody asked for a stop."""

    path: Path
    kernel: SimKernel
    server: ControlServer
    manager: Manager
    stops: list[bool] = field(default_factory=list)

    def reach(self, client: ControlClient, requested_size: int, name: str | None = None) -> DeviceStatus:
        """Resize, and wait until the stand-in has done it and says so."""
        return reached(client, requested_size, name)


def reached(client: ControlClient, requested_size: int, name: str | None = None) -> DeviceStatus:
    """The status of the only device when the stand-in has done what it is asked for, and says so."""
    client.resize(requested_size, name)
    revision = -1
    for _ in range(1000):
        revision, (status,) = client.show(after=revision, timeout=5.0)
        if status.plugged_size == requested_size and status.guest == "stand-in: idle":
            return status
    raise AssertionError(status)


@contextmanager
def running(
    path: Path,
    *faults: Rule,
    region_size: int = 64 * MIB,
    memory_kind: MemoryKind = MemoryKind.ANONYMOUS,
    devices: int = 2,
    exercise: bool = False,
    iommufd: bool = False,
    record: TextIO | None = None,
) -> Iterator[Running]:
    stops: list[bool] = []
    kernel = SimKernel(edu_devices=devices)
    with ExitStack() as stack:
        server = stack.enter_context(ControlServer(str(path), lambda: stops.append(True)))
        manager = stack.enter_context(
            Manager(
                ManagerOptions(
                    kernel=FaultyKernel(kernel, *faults),
                    name="vm0",
                    devices=sorted(kernel.functions),
                    memory_kind=memory_kind,
                    page_size=None,
                    region_size=region_size,
                    block_size=BLOCK,
                    address=ADDRESS,
                    exercise=exercise,
                    iommufd=iommufd,
                    record=record,
                ),
                server.changed,
            )
        )
        server.manage(manager.managed)
        stack.callback(server.forget, "vm0")
        yield Running(path, kernel, server, manager, stops)


def status(region_size: int, block_size: int, *plugged: Run, usable_size: int | None = None) -> DeviceStatus:
    """Of a device that has no space and no guest."""
    return DeviceStatus(
        name="vm & <0>",
        address=ADDRESS,
        region_size=region_size,
        block_size=block_size,
        usable_size=region_size if usable_size is None else usable_size,
        plugged_size=sum(run.size for run in plugged),
        requested_size=region_size,
        node_id=None,
        memory_kind="anon",
        page_size=4096,
        plugged=plugged,
        address_spaces=(),
        guest="",
        waiting_for=None,
        broken=False,
        migrating=False,
        divergences=(),
    )
