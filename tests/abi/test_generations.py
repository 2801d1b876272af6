"""The mirrors beside the kernel headers of every generation that Debian has, virtio_mem.h among them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/abi-headers"
HEADERS = ["linux/vfio.h", "linux/iommufd.h", "linux/virtio_mem.h", "linux/pci_regs.h"]
_CANNOT_FETCH = 2


@pytest.mark.parametrize(
    ("suite", "release"), [("bookworm", "6.1."), ("trixie", "6.12."), ("trixie-backports", "7."), ("sid", "7.")]
)
def test_mirrors_agree_with_the_headers_of(suite: str, release: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("kernel") == ["simulated"]:
        pytest.skip("headers are fetched from the archive: part of make test")
    run = subprocess.run([sys.executable, TOOL, "--check", suite], capture_output=True, text=True, check=False)
    if run.returncode == _CANNOT_FETCH and os.environ.get("CI") != "true":
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Nothing differs." in run.stdout
    releases = dict(line.split()[:2] for line in run.stdout.splitlines() if line.startswith("linux/") and " " in line)
    for header in HEADERS:
        # iommufd came with Linux 6.2.
        if (suite, header) != ("bookworm", "linux/iommufd.h"):
            assert releases[header].startswith(release)
