"""QEMU's side: a virtio-mem device whose driver is this program."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from tests.oracle.emulator import Emulator
from tests.oracle.observation import Line, Marks, Observation, integer, octets, usable_blocks
from tests.oracle.qmp import QmpError
from tests.oracle.qtest import parse_bytes, read, write
from tests.oracle.virtio_pci import VERSION_1, Status, VirtioPci
from tests.oracle.virtqueue import SIZE, Virtqueue
from virtiomem.device import RESPONSE_SIZE, Feature

RAM = 256 << 20
DEVICE_MEMORY = 64 << 30
"""Room for regions, from 4 GiB on."""
NODES = 3

_SLOT = 5
_QUEUE = 0x10_0000
_CONFIG_SIZE = 56
_PATH = "/machine/peripheral/region"


class QemuDevice:
    """A Player. The op refuse_map is beyond it."""

    def __init__(self, program: Path, init: Line, arguments: tuple[str, ...] = (), shared: bool = False) -> None:
        """arguments: further ones of QEMU's. shared: the region's memory can be handed to other processes."""
        self._features = _features(init)
        self._address = integer(init, "addr")
        self._migrating = False
        with ExitStack() as cleanup:
            self._emulator = cleanup.enter_context(Emulator(program, [*_machine(program, init, shared), *arguments]))
            self._listener = cleanup.enter_context(socket.socket(socket.AF_UNIX))
            self._listener.bind(self._migration)
            self._listener.listen(64)
            self._emulator.qmp.execute(
                "migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}]
            )
            self._queue = Virtqueue(_QUEUE)
            self.pci = VirtioPci(self._emulator.qtest, _SLOT, self._queue)
            self.pci.start(VERSION_1 | self._features)
            self._marks = Marks(init, self._read_marks, self._write_mark)
            self._cleanup = cleanup.pop_all()

    @property
    def config(self) -> bytes:
        return self._emulator.qtest.read(self.pci.config, _CONFIG_SIZE)

    def plug_in(self, driver: str, bus: str, **properties: object) -> None:
        """Add a device while the machine runs. Raises QmpError."""
        self._emulator.qmp.execute("device_add", driver=driver, bus=bus, id=f"late-{driver}", **properties)

    def play(self, line: Line) -> Observation:
        response: bytes | None = None
        refused = False
        match line["op"]:
            case "request":
                (response,) = self._ask([octets(line)], integer(line, "response_size", RESPONSE_SIZE))
            case "resize":
                refused = not self._resize(integer(line, "requested_size"))
            case "device_reset":
                self.pci.start(VERSION_1 | self._features)
            case "system_reset":
                self._emulator.qmp.execute("system_reset")
                self._emulator.qmp.wait_for("RESET")
                self.pci.enable()
                self.pci.start(VERSION_1 | self._features)
            case "migrating":
                self._migrate(bool(line["on"]))
            case op:
                raise AssertionError(f"{op} is not for QEMU")
        status, config = self._emulator.qtest.run([self.pci.status_command, read(self.pci.config, _CONFIG_SIZE)])
        broken = bool(int(status, 0) & Status.DEVICE_NEEDS_RESET)
        return Observation(response, broken, refused, parse_bytes(config), self._marks.after(line, response))

    def states(self) -> list[bytes | None]:
        requests = [bytes(request) for request in usable_blocks(self.config)]
        at_once = SIZE // 2
        return [
            answer
            for first in range(0, len(requests), at_once)
            for answer in self._ask(requests[first : first + at_once], RESPONSE_SIZE)
        ]

    def close(self) -> None:
        self._cleanup.close()

    def _ask(self, requests: list[bytes], response_size: int) -> list[bytes | None]:
        """The answers; None for what was not answered. The device answers before its notification returns."""
        commands = []
        reads = [f"readw {self._queue.used_index:#x}"]
        for request in requests:
            placed, words = self._queue.place(request, response_size)
            commands += [*words, self.pci.notify_command]
            reads += [read(placed.used, 8), read(placed.response, max(response_size, RESPONSE_SIZE))]
        index, *found = self._emulator.qtest.run([*commands, *reads])[len(commands) :]
        answered = self._queue.answered(int(index, 0))
        answers: list[bytes | None] = [None] * len(requests)
        for number in range(answered):
            used, response = map(parse_bytes, found[2 * number : 2 * number + 2])
            assert int.from_bytes(used[4:], "little") == RESPONSE_SIZE
            answers[number] = response[:RESPONSE_SIZE]
        return answers

    def _resize(self, requested_size: int) -> bool:
        try:
            self._emulator.qmp.execute("qom-set", path=_PATH, property="requested-size", value=requested_size)
        except QmpError:
            return False
        return True

    def _migrate(self, on: bool) -> None:
        if on is self._migrating:
            return
        self._migrating = on
        # Nobody reads what it sends, so it goes on until it is cancelled.
        if on:
            self._emulator.qmp.execute("migrate", uri=f"unix:{self._migration}")
            self._emulator.qmp.wait_for("MIGRATION", "active", "failed")
        else:
            self._emulator.qmp.execute("migrate_cancel")
            self._emulator.qmp.wait_for("MIGRATION", "cancelled", "failed")

    @property
    def _migration(self) -> str:
        return str(self._emulator.directory / "migration")

    def _read_marks(self, offsets: list[int]) -> list[int]:
        answers = self._emulator.qtest.run([read(self._address + offset, 8) for offset in offsets])
        return [int.from_bytes(parse_bytes(answer), "little") for answer in answers]

    def _write_mark(self, offset: int, value: int) -> None:
        self._emulator.qtest.run([write(self._address + offset, value.to_bytes(8, "little"))])


def _machine(program: Path, init: Line, shared: bool) -> list[str]:
    """QEMU's arguments for a virtio-mem device as init says."""
    options = {
        "id": "region",
        "addr": f"{_SLOT:02x}.0",
        "memdev": "memory",
        "block-size": integer(init, "block_size"),
        "requested-size": integer(init, "requested_size"),
        "memaddr": integer(init, "addr"),
        "unplugged-inaccessible": "on" if _features(init) & Feature.UNPLUGGED_INACCESSIBLE else "off",
    }
    if "ioeventfd" in _properties(program):
        # Then a notification returns after the answer, as in a QEMU that has no such choice.
        options["ioeventfd"] = "off"
    nodes: list[str] = []
    if "node_id" in init:
        options["node"] = integer(init, "node_id")
        nodes = ["-object", f"memory-backend-ram,id=ram,size={RAM}", "-numa", "node,nodeid=0,memdev=ram"]
        for node in range(1, NODES):
            nodes += ["-numa", f"node,nodeid={node}"]
    backend = "memory-backend-memfd,share=on" if shared else "memory-backend-ram"
    return [
        *("-machine", "q35", "-m", f"{RAM >> 20}M,slots=1,maxmem={(RAM + DEVICE_MEMORY) >> 20}M"),
        *nodes,
        *("-object", f"{backend},id=memory,size={integer(init, 'region_size')},reserve=off"),
        *("-device", "virtio-mem-pci," + ",".join(f"{key}={value}" for key, value in options.items())),
    ]


@cache
def _properties(program: Path) -> str:
    command = [str(program), "-device", "virtio-mem-pci,help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _features(init: Line) -> int:
    return integer(init, "features", Feature.UNPLUGGED_INACCESSIBLE)
