"""peek, poke, dump, reset and irq, on an edu device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyvfio import Kernel, LinuxKernel
from pyvfio.cli import main
from pyvfio.drivers.edu import edu_addresses
from pyvfio.host import Host, bind, restore
from pyvfio.host.binding import Binding
from pyvfio.sim import SimKernel
from pyvfio.sysfs import pci_device
from tests.support.schemas import checked

IDENTIFICATION = 0x010000ED
"""At offset 0 of BAR 0; what is written at 4 reads inverted."""


@dataclass(frozen=True, slots=True)
class Bench:
    kernel: Kernel
    address: str
    capture: pytest.CaptureFixture[str]

    def run(self, command: str, *arguments: str, status: int = 0) -> tuple[str, str]:
        """What it says on standard output and standard error."""
        assert main([command, self.address, *arguments], Host(self.kernel)) == status
        said = self.capture.readouterr()
        return said.out, said.err

    def data(self, command: str, *arguments: str, status: int = 0) -> Any:
        out, _ = self.run(command, *arguments, "--json", status=status)
        return checked(f"pyvfio-{command}", json.loads(out))


@pytest.fixture
def bench(kernel_name: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    if kernel_name == "simulated":
        simulated = SimKernel(edu_devices=1)
        yield Bench(simulated, edu_addresses(simulated)[0], capsys)
        return
    real = LinuxKernel()
    address = edu_addresses(real)[0]
    before = bind(real, address)
    yield Bench(real, address, capsys)
    restore(real, before)


def test_peek(bench: Bench) -> None:
    out, err = bench.run("peek", "bar0", "0")
    assert out == f"bar0+0x0  {IDENTIFICATION:#010x}\n"
    assert (
        err
        == f"note: {bench.address} has no reset of its own: opening it leaves it as it is, but for DMA, which is off\n"
    )
    peeked = bench.data("peek", "config", "0", "--width", "2", "--count", "2")
    assert [each["hex"] for each in peeked["values"]] == ["0x1234", "0x11e8"]
    assert [each["offset"] for each in peeked["values"]] == [0, 2]


def test_poke_writes_in_order_and_reads_back(bench: Bench) -> None:
    poked = bench.data("poke", "bar0", "4=0x1234", "0x4=5", "--expect", "1234:11e8")
    assert [(each["value"], each["reads"]) for each in poked["writes"]] == [(0x1234, 0xFFFFEDCB), (5, 0xFFFFFFFA)]
    out, _ = bench.run("poke", "bar0", "4=1", "--expect", "1234:11e8")
    assert out == "bar0+0x4  wrote 0x00000001  reads 0xfffffffe\n"


@pytest.mark.parametrize("wrong", ["0x200000=2", "0x6=1", "8=0x100000000"])
def test_poke_writes_all_or_nothing(bench: Bench, wrong: str) -> None:
    """In one opening: closing resets this device, and not every one."""
    _, err = bench.run("poke", "bar0", "4=0x1234", wrong, "--expect", "1234:11e8", status=1)
    assert "nothing was written: " in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing was written: say what {address} is to be with --expect VENDOR:DEVICE"),
        (["--expect", "8086:1521"], "it is 1234:11e8, not the 8086:1521 that was expected"),
    ],
)
def test_poke_wants_to_be_told_what_it_writes_to(bench: Bench, arguments: list[str], said: str) -> None:
    _, err = bench.run("poke", "bar0", "4=1", *arguments, status=1)
    assert said.format(address=bench.address) in err


def test_dump_decodes_config_space(bench: Bench) -> None:
    dumped = bench.data("dump")
    words = {each["name"]: each["text"] for each in dumped["decoded"]}
    assert words["id"].startswith("1234:11e8 revision")
    assert "MEMORY+" in words["command"]
    assert "MASTER-" in words["command"]
    assert any(name.endswith("] MSI") and text.startswith("Enable- Count=1 64bit+") for name, text in words.items())
    assert dumped["bytes"].startswith("3412e811")
    assert len(dumped["bytes"]) == 2 * 256
    out, _ = bench.run("dump")
    assert "0000: 34 12 e8 11" in out


def test_dump_of_a_bar(bench: Bench, tmp_path: Path) -> None:
    dumped = bench.data("dump", "bar0", "--offset", "1", "--size", "3")
    assert dumped["bytes"] == "000001"
    to = tmp_path / "bar"
    out, _ = bench.run("dump", "bar0", "--size", "4", "--output", str(to))
    assert (out, to.read_bytes()) == ("", IDENTIFICATION.to_bytes(4, "little"))


def test_reset_of_what_cannot_be_reset_alone(bench: Bench) -> None:
    _, err = bench.run("reset", status=1)
    assert "the device cannot be reset alone" in err
    assert bench.data("reset", "--dry-run")["alone"] is False


def test_irq(bench: Bench) -> None:
    vectors = bench.data("irq")["vectors"]
    assert (vectors["intx"], vectors["msi"], vectors["msix"]) == (1, 1, 0)
    seen = bench.data("irq", "--wait", "5", "--trigger", "0", "--count", "1")["seen"]
    assert [(each["vector"], each["times"]) for each in seen] == [(0, 1)]
    out, _ = bench.run("irq", "msi", "--wait", "0.01", status=1)
    assert out == "none came in 0.01 s\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["peek", "bar9", "0"], "none of bar0, bar1"),
        (["peek", "bar3", "0"], "the device has none. It has bar0, config"),
        (["peek", "bar0", "0x100000"], "0x10_0000"),
        (["irq", "msix", "--wait", "1"], "has no interrupts of the kind msix"),
    ],
)
def test_refusals_are_one_sentence(bench: Bench, arguments: list[str], said: str) -> None:
    _, err = bench.run(arguments[0], *arguments[1:], status=1)
    assert said in err
    assert err.removeprefix("note").count("\npyvfio: ") + err.startswith("pyvfio: ") == 1


@pytest.mark.parametrize("command", ["peek", "dump", "reset", "irq"])
def test_a_device_that_is_not_bound(bench: Bench, command: str) -> None:
    restore(bench.kernel, Binding(bench.address, None, None))
    arguments = ["bar0", "0"] if command == "peek" else []
    out, err = bench.run(command, *arguments, status=1)
    assert (out, err.count("\n")) == ("", 1)
    assert f"pyvfio bind {bench.address}" in err
    assert pci_device(bench.kernel, bench.address).driver is None
