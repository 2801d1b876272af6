"""A checkout that was never installed: what root runs from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyvfio

CHECKOUT = Path(pyvfio.__file__).parents[1]


def run(*command: str, directory: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    """With nothing but the standard library to import from, as sudo leaves the environment."""
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-S", *command], capture_output=True, text=True, check=False, cwd=directory, env=environment
    )


@pytest.mark.parametrize("package", ["pyvfio", "virtiomem"])
@pytest.mark.parametrize("way", ["module", "script"])
def test_it_runs(package: str, way: str, tmp_path: Path) -> None:
    start, directory = ["-m", package], CHECKOUT
    if way == "script":
        start, directory = [str(CHECKOUT / "tools" / package)], tmp_path
    done = run(*start, "--version", directory=directory)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{package} {pyvfio.__version__}\n", "")


def test_list_asks_the_network_too(tmp_path: Path) -> None:
    """Without the packages that are only for tests."""
    done = run("-c", "from pyvfio.host import LinuxNetwork; print(LinuxNetwork().use('lo'))")
    assert "127.0.0.1/8" in done.stdout, done.stderr
    done = run(str(CHECKOUT / "tools/pyvfio"), "list", "--json", directory=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_old_python_is_told_so() -> None:
    script = (CHECKOUT / "tools/pyvfio").read_text().replace("(3, 11)", "(4, 0)")
    done = run("-c", script)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "later is needed" in done.stderr


def test_the_installed_version_is_the_code_s() -> None:
    from importlib.metadata import version

    assert version("pyvfio") == pyvfio.__version__
