"""The machines of a session of pytest, which the worker runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

from tests.vm.session import Session
from tests.vm.worker import Task

ROOT = Path(__file__).resolve().parents[2]


class Fleet:
    """Begins at once; close() ends what still runs."""

    def __init__(self, tasks: Sequence[Task], stderr: int) -> None:
        """stderr: a descriptor for what the worker says of kernels that it fetches or builds."""
        self.sessions = {task.target: Session(task) for task in tasks}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.vm.worker"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tools"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[str] = self._process.stdin
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        self._stdin.write(json.dumps([asdict(task) for task in tasks]) + "\n")
        self._stdin.flush()

    def close(self) -> None:
        self._stdin.close()
        self._reader.join()
        self._process.wait()

    def _read(self, events: IO[str]) -> None:
        with events:
            for line in events:
                event = json.loads(line)
                self.sessions[event["target"]].put(event)
        for session in self.sessions.values():
            session.put({"end": {"trouble": "its process ended", "unavailable": False, "output": "", "took": {}}})
