"""The machines of a session of pytest, which the worker runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from tests.support.vm.session import Session, ended
from tests.support.vm.worker import Task

ROOT = Path(__file__).resolve().parents[3]
WORKER = (sys.executable, "-m", "tests.support.vm.worker")
PATIENCE = 60
"""Seconds for the worker to end what it runs."""


class Fleet:
    """Begins at once; close() ends what still runs."""

    def __init__(self, tasks: Sequence[Task], stderr: int, worker: Sequence[str] = WORKER) -> None:
        """stderr: a descriptor for what the worker says of kernels that it fetches or builds. worker: its command."""
        self.sessions = {task.target: Session(task) for task in tasks}
        # Events have a channel of their own: what the worker starts, apt and make too, prints on standard output.
        reading, writing = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*worker, str(writing)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tools"},
                stdin=subprocess.PIPE,
                stdout=stderr,
                stderr=stderr,
                pass_fds=(writing,),
                text=True,
            )
        finally:
            os.close(writing)
        assert self._process.stdin is not None
        self._stdin: IO[str] = self._process.stdin
        self._reader = threading.Thread(target=self._read, args=(os.fdopen(reading),), daemon=True)
        self._reader.start()
        # One that has ended already says so by its silence.
        with suppress(BrokenPipeError):
            self._stdin.write(json.dumps([asdict(task) for task in tasks]) + "\n")
            self._stdin.flush()

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _read(self, events: IO[str]) -> None:
        trouble = "its process ended"
        try:
            with events:
                for line in events:
                    self._deliver(json.loads(line))
        except Exception as error:
            trouble = f"its process said what cannot be understood: {error!r}"
        finally:
            # Whatever ended this thread: nobody waits for events that do not come.
            for session in self.sessions.values():
                session.put(ended(trouble))

    def _deliver(self, event: dict[str, object]) -> None:
        """To the session it is of; what names none, to all."""
        target = event.get("target")
        for session in self.sessions.values() if target is None else [self.sessions[str(target)]]:
            session.put(event)
