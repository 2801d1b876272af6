"""Runs mutants in a copy of the tree, each with its own tests only."""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import Mutant

ROOT = Path(__file__).parents[2]
_PARTS = (
    "pyvfio",
    "virtiomem",
    "tests",
    "tools",
    "examples",
    "docs",
    "benchmarks",
    "systemd",
    "pyproject.toml",
    "README.md",
)
_PATIENCE = 120.0
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """caught_by: the test that has failed; None if the mutant survived. took_too_long: it counts as caught."""

    mutant: Mutant
    caught_by: str | None
    took_too_long: bool = False

    @property
    def caught(self) -> bool:
        return self.caught_by is not None or self.took_too_long


class Copy:
    """A copy of the tree, in which one mutant at a time lives."""

    def __init__(self, place: Path) -> None:
        self._place = place
        for part in _PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, place / part, ignore=shutil.ignore_patterns("__pycache__", "build"))
            else:
                shutil.copy2(source, place / part)
        compileall.compile_dir(place, quiet=2)

    def run(self, mutant: Mutant, tests: Iterable[str] | None = None) -> Result:
        """Put mutant in, run its tests until one fails, and take it out again. Raises ValueError as mutated() does."""
        path = self._place / mutant.file
        text, status = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(mutant.mutated(text), encoding="utf-8")
        # The compiled file is of the time of the text: that of a mutant is never written.
        os.utime(path, (status.st_atime, status.st_mtime + 10))
        try:
            return self._tested(mutant, tuple(tests or mutant.tests))
        finally:
            path.write_text(text, encoding="utf-8")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _tested(self, mutant: Mutant, tests: tuple[str, ...]) -> Result:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "--kernel",
            "simulated",
            "-p",
            "no:cacheprovider",
            *tests,
        ]
        environment = {**os.environ, "PYTHONPATH": str(self._place), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            ran = subprocess.run(
                command,
                cwd=self._place,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Result(mutant, None, took_too_long=True)
        if ran.returncode not in (0, 1, 2):
            raise ValueError(f"{mutant}: pytest ends with {ran.returncode}: {ran.stdout[-500:]}{ran.stderr[-500:]}")
        found = _FAILED.search(ran.stdout)
        return Result(mutant, found[1] if found else ("?" if ran.returncode else None))


@contextmanager
def copied() -> Iterator[Copy]:
    """A Copy, for the length of a with block."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        yield Copy(Path(directory))
