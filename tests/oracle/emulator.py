"""Emulator: a QEMU without a guest, driven from outside by qtest and QMP."""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Self, TextIO

from tests.oracle.qmp import Qmp
from tests.oracle.qtest import Qtest

_PATIENCE = 120.0
"""Seconds for an answer, which takes milliseconds: a QEMU that hangs must not hang its tests."""


class Emulator:
    """One QEMU whose processors never run. Its memory and devices are the caller's, as if by the guest, over qtest.

    The tcg accelerator serves qtest too, and every distribution's QEMU has it. directory is the process's own and goes
    with it.
    """

    def __init__(self, program: Path, arguments: Sequence[str]) -> None:
        """arguments: machine, memory and devices. Raises OSError."""
        with ExitStack() as cleanup:
            self.directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="pyvfio-oracle-")))
            complaints = cleanup.enter_context((self.directory / "complaints").open("w+b"))
            qtest, theirs_qtest = socket.socketpair()
            qmp, theirs_qmp = socket.socketpair()
            for end in (qtest, theirs_qtest, qmp, theirs_qmp):
                cleanup.enter_context(end)
            self._process = subprocess.Popen(
                [
                    str(program),
                    *("-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-S"),
                    *("-chardev", f"socket,id=qtest,fd={theirs_qtest.fileno()}"),
                    *("-qtest", "chardev:qtest", "-qtest-log", "none"),
                    *("-chardev", f"socket,id=qmp,fd={theirs_qmp.fileno()}", "-mon", "chardev=qmp,mode=control"),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=[theirs_qtest.fileno(), theirs_qmp.fileno()],
            )
            cleanup.callback(self._end)
            theirs_qtest.close()
            theirs_qmp.close()
            qtest.settimeout(_PATIENCE)
            qmp.settimeout(_PATIENCE)
            try:
                lines = [end.makefile("rw", encoding="utf-8") for end in (qtest, qmp)]
                for connection in lines:
                    cleanup.callback(_close, connection)
                self.qtest, self.qmp = Qtest(lines[0]), Qmp(lines[1])
            except OSError as error:
                self._end()
                complaints.seek(0)
                raise OSError(f"{program} ended: {complaints.read().decode(errors='replace').strip()}") from error
            self._cleanup = cleanup.pop_all()

    def close(self) -> None:
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


def _close(connection: TextIO) -> None:
    # What a QEMU that has ended was never sent is no second failure.
    with suppress(OSError):
        connection.close()


@cache
def version(program: Path) -> tuple[int, ...]:
    """Major and minor."""
    text = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"version (\d+)\.(\d+)", text)
    assert match, text
    return int(match[1]), int(match[2])
