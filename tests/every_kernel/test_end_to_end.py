"""Two devices, from the host's hands into a running manager's and back, with nothing but the commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyvfio import LinuxKernel
from pyvfio.cli import main as pyvfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.host.binding import Binding, binding
from pyvfio.kernel import dma_entry_limit, exists
from pyvfio.sysfs import pci_device
from tests.support.schemas import checked
from virtiomem.cli import main as virtiomem

MIB = 1 << 20
REGION, BLOCK = 64 * MIB, 2 * MIB
PROGRAM = "import sys; from virtiomem.cli import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Host:
    """devices: what the manager is told to use; real: whether they are this kernel's own."""

    devices: list[str]
    real: bool
    undo: Path

    @property
    def arguments(self) -> list[str]:
        if not self.real:
            return ["--simulate", "2"]
        return [word for device in self.devices for word in ("--device", device)]

    def bindings(self) -> list[Binding]:
        return [binding(LinuxKernel(), device) for device in self.devices if self.real]


@pytest.fixture
def host(kernel_name: str, tmp_path: Path) -> Iterator[Host]:
    """Two edu devices bound by the command, and given back by the command."""
    undo = tmp_path / "undo"
    if kernel_name == "simulated":
        yield Host(["0000:00:03.0", "0000:00:04.0"], False, undo)
        return
    kernel = LinuxKernel()
    host = Host(edu_addresses(kernel)[:2], True, undo)
    before = host.bindings()
    assert pyvfio(["bind", *host.devices, "--undo-file", str(undo)]) == 0
    groups = [pci_device(kernel, device).group for device in host.devices]
    yield host
    for group in groups:  # nobody has it open any more
        kernel.close(kernel.open(f"/dev/vfio/{group}", os.O_RDWR))
    assert pyvfio(["restore", "--undo-file", str(undo)]) == 0
    assert host.bindings() == before
    assert not undo.exists()
    assert not any(exists(kernel, f"/dev/vfio/{group}") for group in groups)


@dataclass(slots=True)
class Manager:
    process: subprocess.Popen[str]
    socket: Path
    capture: pytest.CaptureFixture[str]

    def ask(self, command: str, *arguments: str) -> Any:
        """What a command prints as data, checked against its schema."""
        self.capture.readouterr()
        assert virtiomem([command, "--json", "--socket", str(self.socket), *arguments]) == 0
        return checked(f"virtiomem-{command}", json.loads(self.capture.readouterr().out))

    def device(self) -> Any:
        (device,) = self.ask("show")["devices"]
        return device

    def line(self) -> Any:
        """What the manager prints next."""
        assert self.process.stdout is not None
        return checked("virtiomem-run", json.loads(self.process.stdout.readline()))

    def locked(self) -> int:
        """Bytes the kernel has charged the process with for its mappings."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmLck:")[1].split()[0]) << 10


PATIENCE = 150
"""Seconds until a manager that says nothing is killed."""


@contextmanager
def manager(host: Host, tmp_path: Path, capture: pytest.CaptureFixture[str], *arguments: str) -> Iterator[Manager]:
    socket = tmp_path / "vm0.sock"
    command = [sys.executable, "-c", PROGRAM, "run", "--json", "--socket", str(socket)]
    command += ["--region", "64M", "--block-size", "2M", *host.arguments, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(PATIENCE, process.kill)
        try:
            limit.start()
            running = Manager(process, socket, capture)
            ready = running.line()
            assert (ready["event"], ready["devices"]) == ("ready", host.devices)
            yield running
        finally:
            limit.cancel()
            process.kill()


def test_two_devices_up_and_down_while_one_does_dma(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with manager(host, tmp_path, capsys, "--exercise") as run:
        base = run.locked()
        for size in (32 * MIB, 6 * MIB, 64 * MIB, 0, 10 * MIB):
            done = run.ask("resize", str(size))
            assert (done["plugged_size"], done["reached"]) == (size, True)
            device = run.device()
            assert device["plugged"] == ([{"start": 1 << 32, "size": size}] if size else [])
            staging, other = device["address_spaces"]
            assert (staging["mappings"], other["mappings"]) == (size // BLOCK + 1, size // BLOCK)
            assert device["divergences"] == []
            if host.real:
                assert run.locked() - base == 2 * size
        exercised = run.ask("stats")["devices"][0]["dma"]
        while not exercised["verified_bytes"]:
            exercised = run.ask("stats")["devices"][0]["dma"]
        assert (exercised["mismatches"], exercised["failure"]) == (0, None)
        assert run.ask("stop")["stopped"]
        assert not run.socket.exists()
        assert run.line() == {"event": "stopped", "reason": "the stop command"}
        assert run.process.wait(30) == 0


def test_sigterm_closes_everything(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with manager(host, tmp_path, capsys, "--requested", "8M") as run:
        run.process.terminate()
        assert run.line() == {"event": "stopped", "reason": "SIGTERM"}
        assert run.process.wait(30) == 0
        assert not run.socket.exists()


def test_killed_and_started_again(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kernel takes everything back; the socket that is left is nobody's, and taken over."""
    for _ in range(2):
        with manager(host, tmp_path, capsys, "--requested", "8M") as run:
            assert run.ask("resize", "4M")["reached"]
            run.process.kill()
            assert run.process.wait(30) == -signal.SIGKILL
            assert run.socket.exists()
    assert virtiomem(["show", "--socket", str(tmp_path / "vm0.sock")]) == 1
    assert "no manager runs there" in capsys.readouterr().err


def test_one_container_for_both(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with manager(host, tmp_path, capsys, "--one-container") as run:
        run.ask("resize", "8M")
        (space,) = run.device()["address_spaces"]
        assert space["mappings"] == 4
        run.process.send_signal(signal.SIGINT)
        assert run.line() == {"event": "stopped", "reason": "SIGINT"}
        assert run.process.wait(30) == 0


@pytest.mark.parametrize(("blocks", "fits"), [("2M", True), ("1M", False)])
@pytest.mark.usefixtures("kernel_name")
def test_a_plan_knows_the_hosts_limit(blocks: str, fits: bool, capsys: pytest.CaptureFixture[str]) -> None:
    limit = dma_entry_limit()
    arguments = ["plan", "--json", "--no-measure", "--host-memory", "unlimited"]
    status = virtiomem([*arguments, "--region", str(limit * 2 * MIB), "--block-size", blocks])
    plan: Any = checked("virtiomem-plan", json.loads(capsys.readouterr().out))
    # A user with little locked memory has another reason why it does not fit.
    assert status == (0 if plan["fits"] else 1)
    assert fits or not plan["fits"]
    mappings = next(row for row in plan["limits"] if row["limit"] == "mappings")
    assert mappings["fits"] is fits
    assert (mappings["need"], mappings["available"]) == (limit * 2 * MIB // (MIB if blocks == "1M" else BLOCK), limit)
    assert plan["fitting_block_size"] == BLOCK
