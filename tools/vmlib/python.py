"""A Python newer than the machine's own, unpacked into the cache and never installed, with what the tests import.

Debian's testing suite carries it. It runs with the libraries of its own suite, so it works on an older system.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from vmlib.errors import Unavailable
from vmlib.packages import TIMEOUT, Suite, cache_directory, locked, newest
from vmlib.progress import Progress

SUITE = "forky"
REQUIREMENTS = ("hypothesis>=6.100", "jsonschema>=4.20", "pyroute2>=0.7", "pytest>=8.2", "pytest-xdist>=3.6")
ROOT = Path(__file__).resolve().parents[2]


def recent_python() -> tuple[Path, dict[str, str]]:
    """The program, and an environment in which it imports this checkout; fetched first if the cache does not have it.

    Raises Unavailable without apt or pip, or where the index has no wheels for so new a Python.
    """
    directory = cache_directory() / "python"
    with locked(directory):
        found = sorted(directory.glob("*/.complete"))
        if not found:
            suite = Suite(SUITE)
            name = newest(name for name in suite.packages("python3.") if re.fullmatch(r"python3\.\d+", name))
            with Progress().during(f"fetching {name} of {SUITE}"):
                shutil.rmtree(directory / name, ignore_errors=True)
                suite.unpack_with_dependencies([name], directory / name)
                _fetch_requirements(name.removeprefix("python"), directory / name / "site")
                _write_wrapper(directory / name, name)
            (directory / name / ".complete").touch()
            found = [directory / name / ".complete"]
    root = found[-1].parent
    # Children, such as the workers of pytest-xdist, import from the same places.
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tools", root / "site")))
    return root / "usr/bin/python", {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def _fetch_requirements(version: str, target: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        str(target),
    ]
    command += ["--python-version", version, "--implementation", "cp", "--only-binary=:all:", *REQUIREMENTS]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True, timeout=TIMEOUT)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the packages that the tests import cannot be had for Python {version}: {error}") from error


def _write_wrapper(root: Path, name: str) -> None:
    """Beside the program itself, so that Python finds its library from where sys.executable says it is."""
    wrapper = root / "usr/bin/python"
    (libraries,) = (loader.parent for loader in root.glob("usr/lib/*/ld-linux-*.so.*"))
    (loader,) = libraries.glob("ld-linux-*.so.*")
    command = [str(loader), "--argv0", str(wrapper), "--library-path", str(libraries), str(root / "usr/bin" / name)]
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    wrapper.chmod(0o755)
