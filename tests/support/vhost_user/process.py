"""virtiomem serve as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.schemas import checked

PROGRAM = "import sys; from virtiomem.cli import main; sys.exit(main())"


@contextmanager
def serving(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Ready to be used; ended at the end, if it has not."""
    command = [sys.executable, "-c", PROGRAM, "serve", "--json", "--socket", str(directory / "control"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COVERAGE": ""}) as process:
        assert process.stdout is not None
        try:
            ready = checked("virtiomem-serve", json.loads(process.stdout.readline()))
            assert isinstance(ready, dict)
            assert ready["event"] == "ready"
            yield process
        finally:
            process.kill()
