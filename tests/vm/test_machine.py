"""tools/vm, with a real guest."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.vm.start import ROOT, Start

Vm = Callable[..., subprocess.CompletedProcess[str]]


def test_status_and_both_outputs_come_back_and_nothing_else_does(vm: Vm, tmp_path: Path) -> None:
    left = tmp_path / "left"
    ended = vm("--", "sh", "-c", f"echo out; echo err >&2; echo left > {left}; cat {left}; exit 42")
    assert ended.returncode == 42
    assert ended.stdout == "out\nleft\n"
    assert ended.stderr.startswith("err\n")
    assert not left.exists()
    assert "Linux version" in kept_log(ended.stderr)


def test_the_hardware_is_there(vm: Vm) -> None:
    ended = vm("--", "sh", "-c", "cat /sys/bus/pci/devices/*/class; ls /sys/kernel/iommu_groups/*/devices | grep -c :")
    assert ended.returncode == 0
    classes = ended.stdout.split()
    assert classes.count("0x00ff00") == 5, "four edu and a virtio-rng"
    assert "0x010802" in classes, "NVMe"
    assert classes.count("0x020000") == 2, "e1000e and virtio-net"
    assert int(classes[-1]) >= len(classes) - 1, "every device has an IOMMU group"


def test_without_parts_and_iommu_there_is_less(vm: Vm) -> None:
    ended = vm("--iommu", "none", "--part", "", "--edu", "1", "--", "sh", "-c", "cat /sys/bus/pci/devices/*/class")
    assert ended.stdout.split().count("0x00ff00") == 1
    assert "0x010802" not in ended.stdout


def test_a_guest_can_have_guests(vm: Vm) -> None:
    assert vm("--cpu", "EPYC,+svm", "--part", "", "--", "test", "-c", "/dev/kvm").returncode == 0


def test_a_guest_that_hangs_is_ended(vm: Vm) -> None:
    ended = vm("--timeout", "3", "--", "sleep", "1000")
    assert ended.returncode == 125
    assert "had not ended after 3 s and was ended" in ended.stderr


def test_a_panic_is_called_one(vm: Vm) -> None:
    ended = vm("--", "sh", "-c", "echo before; echo c > /proc/sysrq-trigger; sleep 1000")
    assert ended.returncode == 125
    assert ended.stdout == "before\n"
    assert "panicked" in ended.stderr
    assert "sysrq triggered crash" in ended.stderr
    assert "sysrq_handle_crash" in kept_log(ended.stderr)


def test_machines_run_side_by_side(start: Start) -> None:
    with start("--", "sh", "-c", "exit 3") as first, start("--", "sh", "-c", "exit 4") as second:
        for process, status in ((first, 3), (second, 4)):
            process.communicate()
            assert process.returncode == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_machine_ends_with_the_program_that_started_it(start: Start, number: signal.Signals) -> None:
    with start("--", "sh", "-c", "echo ready; sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        qemu = os.pidfd_open(child(process.pid))
        try:
            process.send_signal(number)
            process.communicate()
            assert process.returncode == (-number if number == signal.SIGKILL else 130)
            assert select.select([qemu], [], [], 60)[0]
        finally:
            os.close(qemu)


def test_without_qemu_it_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, f"{ROOT}/tools/vm", "--", "true"]
    ended = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert ended.returncode == 125
    assert "apt-get install --no-install-recommends qemu-system-x86" in ended.stderr


def kept_log(errors: str) -> str:
    """The log that tools/vm says it has kept."""
    match = re.search(r"log is (\S+\.log)", errors)
    assert match, errors
    return Path(match[1]).read_text()


def child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
