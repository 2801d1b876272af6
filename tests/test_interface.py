"""docs/kernel-interface.md names every call, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pyvfio
from pyvfio.abi import names, vfio
from tests.support.interface import Row, rows

KERNEL_TESTS = Path(__file__).parent / "every_kernel"
_OPERATIONS = {"MASK", "GET", "SET", "PROBE", "CLEAR_MASTER", "SET_MASTER"}


def resolve(path: str) -> object:
    """What pyvfio exports under a name like Device.reset; None if there is no such."""
    found: object = pyvfio
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def test_every_call_has_one_row() -> None:
    calls = {name for kind in names.FdKind for name in names.ioctl_names(kind)}
    prefix = "VFIO_DEVICE_FEATURE_"
    features = {name for name in vars(vfio) if name.startswith(prefix)} - {prefix + name for name in _OPERATIONS}
    assert sorted(row.name for row in rows()) == sorted(calls | features)


def test_what_makes_a_call_is_there() -> None:
    for row in rows():
        for path in row.made_by:
            assert resolve(path) is not None, f"{row.name}: {path}"


def test_the_tests_that_are_named_are_there() -> None:
    defined = {
        match for path in KERNEL_TESTS.glob("test_*.py") for match in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    for row in rows():
        assert (row.test is not None) == (row.kernels in ("every", "built")), row
        if row.test:
            assert row.test.partition("[")[0] in defined, row.test


def test_which_runs_of_a_test_have_to_make_the_call() -> None:
    row = Row("X", (), "built", "test_reset[*bus*]")
    assert row.is_proved_by("test_reset[built-intel-bus]", "built-intel")
    assert not row.is_proved_by("test_reset[built-intel-function]", "built-intel")
    assert not row.is_proved_by("test_reset[stock-intel-bus]", "stock-intel")
    assert Row("X", (), "every", "test_all").is_proved_by("test_all[stock-intel]", "stock-intel")
    assert not Row("X", (), "every", "test_all").is_proved_by("test_all_else[stock-intel]", "stock-intel")


def test_the_comparison_names_what_is_there() -> None:
    page = (Path(__file__).parent.parent / "docs/comparison.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in lines}) == 1
    for line in lines:
        for path in re.findall(r"`([A-Z][\w.]+)`", line.split("|")[2]):
            assert resolve(path) is not None, path
