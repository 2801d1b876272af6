"""A Python process of its own, for what may hang, crash, or happen when the interpreter ends."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


def python(source: str, *options: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """What a process did that ran source, with these options of the interpreter.

    One that hangs is killed: raises subprocess.TimeoutExpired. One that was killed by a signal has a negative
    returncode.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(source)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def output(source: str, *options: str) -> str:
    """What such a process printed. It must end well, and write nothing to stderr."""
    done = python(source, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
