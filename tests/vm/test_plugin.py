"""How a session of pytest deals with real kernels, and what it shows of a machine that ends in the middle."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from vmlib.kernels import KERNELS

from tests.support.outlook import outlook
from tests.support.vm.start import ROOT
from tests.support.vm.target import FEATURES, REQUIRED, TARGETS, Target, chosen, features
from tests.support.vm.worker import slot_count


@pytest.mark.usefixtures("start")
def test_a_machine_that_ends_in_the_middle_is_shown_against_the_test_it_ran(vm_kernel: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--kernel",
        vm_kernel,
        "tests/support/vm/crashing.py",
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "3 failed, 1 passed" in ended.stdout
    _, fails, panics, too_late, *_ = re.split(rf"_+ test_\w+\[{vm_kernel}-intel\] _+\n", ended.stdout)
    assert "said by the failing test" in fails
    assert f"assert '{vm_kernel}-intel' == 'another'" in fails
    assert "the machine ended during this test" in panics
    assert "sysrq triggered crash" in panics
    assert too_late.startswith("the machine ended before this test")
    # The summary at the end repeats every failure, in full where CI is set.
    assert "sysrq" not in too_late.partition("short test summary")[0]
    assert f"{vm_kernel}-intel " in ended.stdout


@pytest.mark.parametrize(
    ("target", "has", "lacks"),
    [
        ("simulated", {"type1", "compat", "iommufd", "cdev", "noiommu", "mdev"}, {"real"}),
        ("debian-6.1-intel", {"type1", "real", "intel"}, {"iommufd", "noiommu", "amd"}),
        ("debian-6.1-virtio", {"real"}, {"type1", "virtio"}),
        ("debian-6.12-virtio", {"type1", "virtio"}, {"iommufd"}),
        ("built-amd", {"type1", "iommufd", "cdev", "mdev", "amd"}, {"compat", "noiommu"}),
        ("built-none", {"noiommu", "mdev", "real"}, {"type1", "iommufd", "cdev"}),
        ("built-compat-intel", {"compat", "iommufd", "cdev"}, {"type1"}),
    ],
)
def test_what_a_target_has(target: str, has: set[str], lacks: set[str]) -> None:
    assert has <= features(target)
    assert not lacks & features(target)
    assert features(target) <= FEATURES


@pytest.mark.parametrize(
    ("kernels", "iommus", "names"),
    [
        (["simulated"], [], ["simulated"]),
        (["built"], [], ["built-intel"]),
        (["simulated", "built"], ["amd", "none"], ["simulated", "built-amd", "built-none"]),
        ([], ["amd"], ["simulated", "stock-amd"]),
    ],
)
@pytest.mark.parametrize("required", [False, True])
def test_what_is_asked_for_is_tested(kernels: list[str], iommus: list[str], names: list[str], required: bool) -> None:
    assert chosen(kernels, iommus, required) == names


def test_continuous_integration_needs_the_oldest_the_newest_and_the_built_kernels() -> None:
    assert chosen([], [], required=True) == ["simulated", *(Target(*pair).name for pair in REQUIRED)]
    assert {kernel for kernel, _ in REQUIRED} >= {"debian-6.1", "debian-7", *(k for k in KERNELS if "built" in k)}


def test_every_target_has_a_name_of_its_own() -> None:
    assert all(TARGETS[name].name == name for name in TARGETS)


@pytest.mark.parametrize(
    ("processors", "memory", "slots"), [(2, 64000, 2), (16, 10000, 4), (8, 1000, 1), (1, 64000, 1)]
)
def test_machines_fit_processors_and_memory(processors: int, memory: int, slots: int) -> None:
    assert slot_count(processors, memory) == slots


def test_a_session_says_what_it_is_going_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machines = {"debian-6.1-intel": 400, "built-none": 50}
    counts, first, _ = outlook(5000, machines, None)
    assert counts == (
        "5000 tests in this process; in virtual machines beside it 400 on debian-6.1-intel, 50 on built-none"
    )
    assert first.startswith("first the kernels debian-6.1, built are fetched, and built: about")
    assert outlook(5000, machines, 1490)[2] == "the last time it took 25 minutes"
