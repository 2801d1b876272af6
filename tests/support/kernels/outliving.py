"""Servers that are killed, with a container that stays: a device goes on with its DMA, and a guest notices nothing.

As a program it does so for longer: tools/vm -- python -m tests.support.kernels.outliving KILLS
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvfio import Device, Kernel, LinuxKernel
from pyvfio.drivers.edu import Edu
from tests.support.kernels.borrowed import borrowed
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS, REGION_SIZE
from tests.support.vhost_user.guests import BLOCKS, KeptGuest, Kind
from tests.support.vhost_user.mortal import Mortal, mortal
from virtiomem.stand_in import demo

MESSAGE = 1024
BUSY_BLOCK = BLOCKS - 1
"""Its device writes and reads all the while."""


class Engine:
    """A device that does DMA to a block, again and again, and finds out at once if it does not arrive."""

    def __init__(self, guest: KeptGuest, device: Device) -> None:
        self._guest = guest
        self._edu = Edu(device)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0
        self.lost = 0
        self._thread.start()

    def _run(self) -> None:
        offset = BUSY_BLOCK * BLOCK + BLOCK // 2
        there = self._guest.region.bytes
        while not self._ending.is_set():
            message = self.rounds.to_bytes(8, "little") * (MESSAGE // 8)
            there[offset : offset + len(message)] = message
            self._edu.fetch(REGION_ADDRESS + offset, len(message))
            self._edu.store(REGION_ADDRESS + offset + BLOCK // 4, len(message))
            self.lost += there[offset + BLOCK // 4 : offset + BLOCK // 4 + len(message)] != message
            self.rounds += 1

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()


@contextmanager
def driving(guest: KeptGuest, servers: Mortal, kernel: Kernel, address: str) -> Iterator[Engine]:
    """The device, whose descriptor the keeper has, does DMA for the length of a with block."""
    with Device(borrowed(servers.keeper, "vfio-device"), address, kernel=kernel) as device:
        engine = Engine(guest, device)
        try:
            yield engine
        finally:
            engine.stop()


def drive(kernel: Kernel, address: str, directory: Path, kind: Kind, kills: int, say: Callable[[str], None]) -> None:
    """Replace as many servers, at any instant, which map into the container of the device at address, most of them by
    kill -9. Raises AssertionError."""
    chance = random.Random(f"{kind} {kills}")
    with mortal(directory, REGION_ADDRESS, REGION_SIZE, BLOCK, keeps=True, devices=[address]) as servers:
        servers.start()
        guest = KeptGuest(servers, kind, chance)
        guest.plug(BUSY_BLOCK)
        guest.spared = {BUSY_BLOCK}
        with driving(guest, servers, kernel, address) as engine:
            for kill in range(kills):
                before, requests = engine.rounds, guest.requests
                # Every third one ends as for an upgrade.
                end = servers.upgrade if kill % 3 == 2 else servers.replace
                killer = threading.Timer(chance.uniform(0, 0.1), end)
                killer.start()
                while killer.is_alive():
                    guest.act()
                killer.join()
                guest.act()
                guest.expect_in_step()
                assert engine.rounds > before
                say(f"{kind} {kill + 1}: {guest.requests - requests} requests, {engine.rounds - before} transfers")
            assert engine.lost == 0
            say(f"{kind}: {kills} servers replaced, {engine.rounds} transfers, none lost; {guest.requests} requests")
        guest.close()


def main() -> None:
    kernel = LinuxKernel()
    with demo.found_devices(kernel, ["auto"]) as devices:
        for kind in ("split", "packed"):
            with tempfile.TemporaryDirectory() as directory:
                drive(kernel, devices[0], Path(directory), kind, int(sys.argv[1]), lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
