"""virtiomem serve as a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.schemas import checked

PROGRAM = "import sys; from virtiomem.cli import main; sys.exit(main())"


# As a service manager does, which knows the process's number only once there is one.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def serving(
    directory: Path, *arguments: str, listening: socket.socket | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Ready to be used; ended at the end, if it has not. listening: a socket that its service manager has made."""
    command = [sys.executable, "-c", PROGRAM, "serve", "--json", "--socket", str(directory / "control"), *arguments]
    fds = [] if listening is None else [listening.fileno()]
    if listening is not None:
        command = [sys.executable, "-c", ACTIVATE, str(listening.fileno()), *command]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COVERAGE": ""}, pass_fds=fds
    ) as process:
        assert process.stdout is not None
        try:
            ready = checked("virtiomem-serve", json.loads(process.stdout.readline()))
            assert isinstance(ready, dict)
            assert ready["event"] == "ready"
            yield process
        finally:
            process.kill()
