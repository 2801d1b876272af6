"""Every example, run on both kernels as a reader would run it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.kernel.conftest import Testbed
from tests.kernel.hardware import NVME, bound

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 150


def test_nvme_read_write(testbed: Testbed, capsys: pytest.CaptureFixture[str]) -> None:
    with bound(testbed, NVME) as address:
        importlib.import_module("examples.nvme_read_write").main(testbed.kernel, address)
    assert "wrote and read back 1048576 bytes through MSI-X completions" in capsys.readouterr().out


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_each_is_short_enough_to_read(example: Path) -> None:
    assert len(example.read_text().splitlines()) < LONGEST
    assert f"def test_{example.stem}(" in Path(__file__).read_text()
