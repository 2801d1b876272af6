"""Every example, run on both kernels as a reader would run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import discards, e1000e_interrupts, edu_transfer, nvme_read_write
from tests.support.kernels.hardware import E1000E, NVME, bound
from tests.support.kernels.modes import Mode
from tests.support.kernels.testbed import Testbed

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 150


def test_discards(capsys: pytest.CaptureFixture[str]) -> None:
    discards.main()
    assert capsys.readouterr().out.splitlines()[-1] == "the balloon took pages [1, 4]"


def test_edu_transfer(testbed: Testbed, capsys: pytest.CaptureFixture[str]) -> None:
    edu_transfer.main(testbed.kernel, testbed.devices[0])
    assert capsys.readouterr().out == "edu version 1.0\n10! = 3628800\nmoved by the device, twice\n"


def test_e1000e_interrupts(testbed: Testbed, capsys: pytest.CaptureFixture[str]) -> None:
    with bound(testbed, E1000E) as address:
        e1000e_interrupts.main(testbed.kernel, address)
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{address}: 52:54:00:12:34:5")
    assert sorted(others) == ["vector 0: received", "vector 1: sent", "vector 2: other"]


@pytest.mark.needs("express-dma")
def test_nvme_read_write(
    mode: Mode, testbed: Testbed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every mode: what differs is the line of the example that says SPACE."""
    monkeypatch.setattr(nvme_read_write, "SPACE", lambda kernel: mode.open(kernel))
    with bound(testbed, NVME) as address:
        nvme_read_write.main(testbed.kernel, address)
    assert "wrote and read back 1048576 bytes through MSI-X completions" in capsys.readouterr().out


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_each_is_short_enough_to_read(example: Path) -> None:
    assert len(example.read_text().splitlines()) < LONGEST
    assert f"def test_{example.stem}(" in Path(__file__).read_text()
