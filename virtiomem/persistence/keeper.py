"""Keeper: the service manager of one program where there is no other."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.resource import Resource
from virtiomem.persistence.notify_socket import FIRST_INHERITED, NotifySocket

_ATTEMPTS: Final = 20
"""How many starts in a row may fail after one that went well."""
_LONGEST_PAUSE: Final = 5.0
"""Seconds between two of them."""
_PATIENCE: Final = 30.0
"""Seconds that the program has to end when it is asked to."""
# The program's number is known to nobody before it runs.
_WITH_ITS_NUMBER: Final = ("/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh")


class Keeper(Resource):
    """Runs a program, starts it again whenever it is killed or fails, and keeps descriptors for it meanwhile.

    The program tells it what to keep as it would tell systemd, and finds it at its next start as from systemd: see
    ServiceManager. It has ended when it ends with 0, or fails before it was ever ready. One thread uses it.
    """

    def __init__(
        self, command: Sequence[str], directory: Path, *, say: Callable[[str], object] = lambda _: None
    ) -> None:
        """command: the program, which run() runs. directory: where the socket is for what it tells, which nobody else
        may enter. say: called with a line about each end of the program.

        Raises VfioError if the socket cannot be made.
        """
        self._command = tuple(command)
        self._say = say
        self._child = 0
        self._is_ending = self._is_replaced = False
        self._socket = NotifySocket(directory)
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        super().__init__()

    def run(self) -> int:
        """Run the program until it has ended; return its status, 128 and the number of a signal if one ended it.

        What is kept is dropped then. Raises VfioError if it cannot be started.
        """
        failures, was_ready = 0, False
        while True:
            self._start()
            status = self._until_end()
            was_ready |= self._socket.is_ready
            failures = 0 if self._socket.is_ready or self._is_replaced else failures + 1
            if self._is_ending or (status == 0 and not self._is_replaced):
                return status
            if not self._is_replaced and (not was_ready or failures > _ATTEMPTS):
                self._say(f"{self._command[0]} ended with {status}, and is not started again")
                return status
            kept = f"{len(self._socket.stored)} descriptors are kept"
            self._say(f"{self._command[0]} ended with {status}, and is started again: {kept}")
            self._is_replaced = False
            if failures and self._ends_within(min(0.1 * 2**failures, _LONGEST_PAUSE)):
                return status

    def end(self) -> None:
        """Have the program end, and run() return. Safe from a signal handler."""
        self._is_ending = True
        self._wake()

    def replace(self) -> None:
        """Have the program end, and start it again: a new version of it, for example. Safe from a signal handler."""
        self._is_replaced = True
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._writer, b"x")

    def _start(self) -> None:
        """Start the program, with all that is kept. Raises VfioError."""
        environment = {**os.environ, "NOTIFY_SOCKET": str(self._socket.path)}
        for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            environment.pop(key, None)
        command = list(self._command)
        if self._socket.stored:
            environment["LISTEN_FDS"] = str(len(self._socket.stored))
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in self._socket.stored)
            command = [*_WITH_ITS_NUMBER, *command]
        places = [
            (os.POSIX_SPAWN_DUP2, fd, FIRST_INHERITED + number) for number, (_, fd) in enumerate(self._socket.stored)
        ]
        self._socket.is_ready = False
        try:
            self._child = os.posix_spawnp(
                command[0], command, environment, file_actions=places, setsigmask=(), setsigdef=(signal.SIGPIPE,)
            )
        except OSError as error:
            raise VfioError(error.errno or errno.EIO, f"start {command[0]}") from error

    def _until_end(self) -> int:
        """Do what the program tells, until it has ended; return its status."""
        process = os.pidfd_open(self._child)
        try:
            poller = select.poll()
            for fd in (process, self._socket.fileno(), self._reader):
                poller.register(fd, select.POLLIN)
            deadline: float | None = None
            while True:
                if deadline is None and (self._is_ending or self._is_replaced):
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(process, signal.SIGTERM)
                    deadline = time.monotonic() + _PATIENCE
                left = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
                ready = {fd for fd, _ in poller.poll(left)}
                if not ready and deadline is not None and time.monotonic() >= deadline:
                    self._say(f"{self._command[0]} does not end, and is killed")
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                    deadline = time.monotonic() + _PATIENCE
                if self._reader in ready:
                    os.read(self._reader, 4096)
                # First: it may have told something just before its end.
                self._socket.take(self._child)
                if process in ready:
                    _, status = os.waitpid(self._child, 0)
                    code = os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else 128 - code
        finally:
            os.close(process)

    def _ends_within(self, seconds: float) -> bool:
        """Wait before the next start, unless somebody wants something; whether it is the end."""
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        poller.poll(seconds * 1000)
        return self._is_ending

    def _release(self) -> None:
        self._socket.close()
        os.close(self._reader)
        os.close(self._writer)

    def __repr__(self) -> str:
        return f"<Keeper of {self._command[0]}>"
