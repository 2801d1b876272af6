"""Servers that follow one another over one state, in this process, and a guest that runs on meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyvfio import Container
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import FaultyKernel
from pyvfio.sim import SimKernel
from tests.support.vhost_user.driver import ask, started
from tests.support.vhost_user.front_end import (
    BLOCK,
    RAM_SIZE,
    REGION_ADDRESS,
    REGION_SIZE,
    Elsewhere,
    FrontEnd,
    Shared,
)
from virtiomem import Request as GuestRequest
from virtiomem import RequestType, Response, ResponseType
from virtiomem.control import DeviceStatus
from virtiomem.discard import DiscardCoordination
from virtiomem.persistence import InHand, Record, SlotFile
from virtiomem.vhost_user import ServedRegion, ServedRegionOptions


class Server:
    """One process's worth of serving, mapped into a container of a simulated device."""

    def __init__(self, stack: ExitStack, directory: Path, **options: object) -> None:
        values: dict[str, object] = {
            "path": str(directory / "mem"),
            "name": "vm0",
            "address": REGION_ADDRESS,
            "region_size": REGION_SIZE,
            "block_size": BLOCK,
            "requested_size": REGION_SIZE,
            "state": directory / "vm0.state",
            **options,
        }
        self.kernel = FaultyKernel(SimKernel(edu_devices=1))
        self.container = stack.enter_context(Container(kernel=self.kernel))
        self.container.open_device(edu_addresses(self.kernel)[0])
        self.backend = Elsewhere(str(values["path"]))
        self.served = stack.enter_context(
            ServedRegion(
                ServedRegionOptions(**values),  # type: ignore[arg-type]
                [self.container],
                kernel=self.kernel,
                coordination=DiscardCoordination(),
                changed=list,
                say=lambda _: None,
            )
        )

    @property
    def status(self) -> DeviceStatus:
        return DeviceStatus.of(self.served.managed)


@contextmanager
def served(directory: Path, **options: object) -> Iterator[Server]:
    with ExitStack() as stack:
        yield Server(stack, directory, **options)


class Guest:
    """Memory of a guest that runs on while its servers come and go."""

    def __init__(self) -> None:
        self.ram, self.region = Shared(RAM_SIZE), Shared(REGION_SIZE)

    @contextmanager
    def connected(self, server: Server) -> Iterator[FrontEnd]:
        front_end = FrontEnd(server.backend, region=self.region, ram=self.ram)
        try:
            yield front_end
        finally:
            front_end.socket.close()
            front_end.channel.close()

    def close(self) -> None:
        self.ram.close()
        self.region.close()


def plug_three(directory: Path, guest: Guest) -> None:
    """A server that serves guest, and ends when three blocks with data in them are plugged."""
    with served(directory) as server, guest.connected(server) as front_end:
        driver = started(front_end, "split")
        assert ask(driver, RequestType.PLUG, REGION_ADDRESS + BLOCK, 3) == Response(ResponseType.ACK)
        guest.region.bytes[BLOCK : BLOCK + 5] = b"guest"
        server.served.managed.device.resize(8 * BLOCK)
    guest.ram.bytes[:] = bytes(RAM_SIZE)


def in_hand(directory: Path, request: GuestRequest, answer: Response) -> None:
    """As if the server had been killed when this was carried out and the guest not told: its next request, at 1."""
    with SlotFile(directory / "vm0.state") as file:
        assert file.content is not None
        values = Record.parse(file.content)
        file.write(bytes(Record(values.boot, values.state, values.memory, InHand(0, bytes(request), bytes(answer)))))


def record_of(directory: Path) -> Record:
    """What is in the file while a server has it open."""
    copy = directory / "copy"
    copy.write_bytes((directory / "vm0.state").read_bytes())
    copy.chmod(0o600)
    with SlotFile(copy) as file:
        assert file.content is not None
        return Record.parse(file.content)
