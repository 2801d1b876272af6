"""Two starts at once, and ends: who wins is reached, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pyvfio import VfioError
from pyvfio.host import Binding, UndoFile
from pyvfio.unix_socket import Listener

_PROGRAM = "import sys; from virtiomem.cli import main; sys.exit(main())"
_COMMANDS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "serve": lambda place: (
        *("serve", "--vhost-user", str(place / "mem"), "--region", "64M", "--block-size", "2M", "--no-state"),
        *("--socket", str(place / "control")),
    ),
    "run": lambda place: ("run", "--region", "64M", "--simulate", "1", "--socket", str(place / "control")),
}


def two_at_once(count: int) -> Iterator[str | None]:
    """Over a socket that was left behind or none, one of several starts wins, and whoever connects reaches it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "socket"
        for number in range(count):
            if number % 2:
                with socket.socket(socket.AF_UNIX) as left:
                    left.bind(str(path))
            yield _raced(path, 2 + number % 3)


def _raced(path: Path, many: int) -> str | None:
    won: list[Listener] = []
    lost: list[VfioError] = []
    gate = threading.Barrier(many)

    def start() -> None:
        gate.wait()
        try:
            won.append(Listener(str(path)))
        except VfioError as error:
            lost.append(error)

    threads = [threading.Thread(target=start) for _ in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        if (len(won), len(lost)) != (1, many - 1):
            return f"{len(won)} of {many} have won"
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            if (connection := won[0].accept()) is None:
                return "whoever connects does not reach who has won"
            connection.close()
    finally:
        for listener in won:
            listener.close()
    return f"{sorted(path.parent.iterdir())} is left" if [*path.parent.iterdir()] else None


def ends(count: int) -> Iterator[str | None]:
    """SIGTERM from the first instruction on leaves no socket."""
    for number in range(count):
        yield _ended(number, signal.SIGTERM)


def kills(count: int) -> Iterator[str | None]:
    """What a command that is killed at any instant leaves does not keep the next one from starting."""
    for number in range(count):
        yield _ended(number, signal.SIGKILL)


def _ended(number: int, how: signal.Signals) -> str | None:
    name = list(_COMMANDS)[number % len(_COMMANDS)]
    chance = random.Random(number)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        process = _started(name, place)
        time.sleep(chance.uniform(0, 0.8))
        process.send_signal(how)
        process.wait(60)
        if how is signal.SIGTERM:
            return f"{name} leaves {sorted(path.name for path in place.iterdir())}" if [*place.iterdir()] else None
        process = _started(name, place)
        deadline = time.monotonic() + 60
        try:
            while not (place / "control").exists() or not _is_reached(place / "control"):
                if time.monotonic() > deadline or process.poll() is not None:
                    return f"{name} does not start after a kill"
                time.sleep(0.02)
        finally:
            process.terminate()
            process.wait(60)
        return f"{name} leaves {sorted(path.name for path in place.iterdir())}" if [*place.iterdir()] else None


def _started(name: str, place: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _PROGRAM, *_COMMANDS[name](place)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _is_reached(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(str(path))
        except OSError:
            return False
    return True


def undo_kills(count: int) -> Iterator[str | None]:
    """An undo file whose writer is killed at any instant is whole, and has all that was remembered before."""
    for number in range(count):
        with tempfile.TemporaryDirectory() as directory:
            yield _undo_killed(Path(directory) / "undo.json", random.Random(number))


def _undo_killed(path: Path, chance: random.Random) -> str | None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        undo = UndoFile(path)
        for number in range(256):
            undo.remember([Binding(f"0000:{number:02x}:00.0", "igb", None)])
            os.write(writing, bytes([number]))
        os._exit(0)
    os.close(writing)
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as told:
        remembered = len(told.read())
    undo = UndoFile(path)
    known = undo.read()
    if len(known) < remembered:
        return f"{remembered} were remembered, and {len(known)} are there"
    undo.forget([entry.address for entry in known])
    left = [place.name for place in path.parent.iterdir()]
    return f"{left} are left" if known and left else None
