"""Every example, run on both kernels as a reader would run it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from examples import discards, e1000e_interrupts, edu_transfer, nvme_read_write, vmm
from pyvfio import Kernel
from pyvfio.sim import SimKernel
from tests.support.kernels.hardware import E1000E, NVME, bound
from tests.support.kernels.modes import Mode
from tests.support.kernels.testbed import Testbed
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS, REGION_SIZE
from tests.support.virtiomem.servers import Guest
from virtiomem import ResponseType
from virtiomem.control import ControlClient
from virtiomem.manager import RegionDefaults, Server, ServerCommands

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


class Lender(ControlClient):
    """On the simulated kernel a descriptor is one of a process, and of no use to another."""

    lent: list[int]

    def ask(self, command: str, arguments: Mapping[str, object], descriptors: Sequence[int] = ()) -> dict[str, object]:
        self.lent.extend(descriptors)
        return super().ask(command, arguments, descriptors)


def test_vmm(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor: Kernel = testbed.kernel
    server_kernel: Kernel = testbed.kernel
    lent: list[int] = []
    if isinstance(monitor, SimKernel):
        server_kernel = machine = monitor.spawn()
        simulated = monitor
        monkeypatch.setattr(vmm, "ControlClient", Lender)
        monkeypatch.setattr(Lender, "lent", lent, raising=False)

    def received(fd: int) -> int:
        if not isinstance(testbed.kernel, SimKernel):
            return fd
        os.close(fd)
        return simulated.send(lent.pop(), machine)

    control = tmp_path / "control"
    with ExitStack() as stack:
        server = stack.enter_context(Server(str(control), lambda: None, kernel=server_kernel))
        layout = RegionDefaults(
            region_size=REGION_SIZE, block_size=BLOCK, requested_size=REGION_SIZE, address=REGION_ADDRESS
        )
        ServerCommands(server, "vm0", layout, received)
        client = stack.enter_context(ControlClient(control))
        client.add_device(str(tmp_path / "mem"))
        guest = Guest(str(tmp_path / "mem"))
        stack.callback(guest.front_end.close)
        assert guest.plug(3, 2) is ResponseType.ACK
        place = slice(5 * BLOCK - vmm.SIZE, 5 * BLOCK)
        guest.front_end.region.bytes[place] = message = os.urandom(vmm.SIZE)
        for _ in range(2):
            vmm.main(monitor, testbed.devices[0], control)
            assert guest.front_end.region.bytes[place] == message
            said = capsys.readouterr().out
            assert f"1024 bytes at {REGION_ADDRESS + 5 * BLOCK - 1024:#x} written, read and put back" in said
            assert "2 mappings by the server, 1 by the monitor" in said
            assert client.spaces() == []
        assert guest.unplug(3, 2) is ResponseType.ACK
        assert guest.front_end.region.resident() == 0


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_each_is_short_enough_to_read(example: Path) -> None:
    assert len(example.read_text().splitlines()) < LONGEST
    assert f"def test_{example.stem}(" in Path(__file__).read_text()
