"""Each subcommand of pyvfio, tried on devices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyvfio import LinuxKernel
from pyvfio.cli import main
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import FaultyKernel
from pyvfio.host import Host, restore
from pyvfio.host.binding import Binding, binding
from pyvfio.kernel import exists
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sysfs import pci_device
from tests.support.schemas import checked

Run = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """Two edu devices without a driver, and the command line."""

    kernel: SimKernel | LinuxKernel
    addresses: list[str]
    undo: Path
    capture: pytest.CaptureFixture[str]

    def run(self, *arguments: str, status: int = 0) -> str:
        """What it prints."""
        assert main(list(arguments), Host(self.kernel)) == status
        return self.capture.readouterr().out

    def data(self, command: str, *arguments: str, status: int = 0) -> Any:
        """What it prints as data, checked against its schema."""
        text = self.run(command, "--json", *arguments, status=status)
        return checked(f"pyvfio-{command}", json.loads(text))

    def drivers(self) -> list[str | None]:
        return [pci_device(self.kernel, address).driver for address in self.addresses]


@pytest.fixture
def bench(kernel_name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Bench]:
    undo = tmp_path / "undo"
    if kernel_name == "simulated":
        kernel = SimKernel()
        for number in (3, 4):
            kernel.add(PciFunction(f"0000:00:{number:02x}.0", group=number))
        yield Bench(kernel, sorted(kernel.functions), undo, capsys)
        return
    real = LinuxKernel()
    addresses = edu_addresses(real)[:2]
    yield Bench(real, addresses, undo, capsys)
    for address in addresses:
        restore(real, Binding(address, None, None))


def test_list(bench: Bench) -> None:
    first = bench.addresses[0]
    entries = {entry["address"]: entry for entry in bench.data("list")}
    assert entries[first]["driver"] is None
    assert entries[first]["viable"]
    assert (entries[first]["vendor_id"], entries[first]["device_id"]) == (0x1234, 0x11E8)
    header, *rows = bench.run("list").splitlines()
    assert header.split() == ["ADDRESS", "CLASS", "NAME", "DRIVER", "GROUP", "VIABLE", "NUMA", "CDEV", "NET"]
    assert [row.split()[0] for row in rows] == list(entries)
    verbose = bench.run("list", "-v").splitlines()
    assert verbose[0].startswith(bench.run("list", "--wide").splitlines()[0])
    assert verbose[0].split()[9:] == ["ID", "OVERRIDE", "DISKS"]
    assert [entry["address"] for entry in bench.data("list", first)] == [first]


def test_list_says_who_spoils_a_group(bench: Bench) -> None:
    if not isinstance(bench.kernel, SimKernel):
        spoiled = [entry for entry in bench.data("list") if entry["driver"] == "virtio-pci" and entry["group"]]
        assert spoiled
        assert all(entry["blocked_by"] == [] for entry in spoiled)
        assert "once bound" in bench.run("list", spoiled[0]["address"])
        return
    bench.kernel.add(PciFunction("0000:00:03.1", group=3, host_driver="snd_hda", driver="snd_hda"))
    entry, other = bench.data("list", "00:03.0", "00:03.1")
    assert (entry["viable"], entry["blocked_by"]) == (False, ["0000:00:03.1"])
    assert (other["viable"], other["blocked_by"]) == (True, [])
    text = bench.run("list")
    assert "no: 0000:00:03.1 snd_hda" in text
    assert "once bound" in text


def test_show_changes_nothing_unless_told_to_open(bench: Bench) -> None:
    first = bench.addresses[0]
    unbound = bench.data("show", "--open", first)
    assert unbound["vfio"] is None
    assert f"pyvfio bind {first}" in unbound["vfio_unavailable"]
    bench.run("bind", first, "--undo-file", str(bench.undo))
    watched = FaultyKernel(bench.kernel)
    main(["show", first], Host(watched))
    bench.capture.readouterr()
    assert not [call for call in watched.calls if call.name == "ioctl"]
    shown = bench.data("show", first)
    assert shown["vfio"] is None
    assert shown["vfio_unavailable"].startswith("not opened; --open opens it")
    if not isinstance(bench.kernel, SimKernel):
        (bar,) = shown["resources"]
        assert (bar["index"], bar["kind"], bar["size"]) == (0, "memory", 1 << 20)
        assert "MSI" in {capability["name"] for capability in shown["capabilities"]}


def test_show_opens_a_device_when_told_to(bench: Bench) -> None:
    first = bench.addresses[0]
    bench.run("bind", first, "--undo-file", str(bench.undo))
    shown = bench.data("show", "--open", first)
    assert shown["vfio_unavailable"] is None
    assert {region["name"]: region["size"] for region in shown["vfio"]["regions"]} == {"BAR0": 1 << 20, "CONFIG": 256}
    assert {"INTX", "MSI"} <= {irq["name"] for irq in shown["vfio"]["interrupts"]}
    assert "MSI" in {capability["name"] for capability in shown["vfio"]["capabilities"]}
    text = bench.run("show", "--open", first)
    assert re.search(r"region +0 +BAR0 +1 MiB +read write mmap", text)
    assert len(re.findall(r"capability +0x0040  MSI", text)) == 1


def test_show_of_a_device_in_use_says_so(bench: Bench) -> None:
    first = bench.addresses[0]
    bench.run("bind", first, "--undo-file", str(bench.undo))
    node = bench.kernel.open(f"/dev/vfio/{pci_device(bench.kernel, first).group}", 2)
    try:
        shown = bench.data("show", "--open", first)
        assert shown["vfio"] is None
        assert "GroupBusy" not in bench.run("show", "--open", first)
        assert "open" in shown["vfio_unavailable"]
    finally:
        bench.kernel.close(node)


def test_doctor(bench: Bench) -> None:
    status = 1 if isinstance(bench.kernel, SimKernel) else 0
    report = bench.data("doctor", status=status)
    assert report["ready"] == (status == 0)
    found = {check["name"]: check for check in report["checks"]}
    assert found["vfio-pci"]["status"] == "OK"
    assert found["nodes"]["status"] == "WARN"
    bench.run("bind", bench.addresses[0], "--undo-file", str(bench.undo))
    (node,) = [check for check in bench.data("doctor", status=status)["checks"] if check["name"] == "nodes"]
    assert node["status"] == "OK"


def test_doctor_against_what_is_wanted(bench: Bench) -> None:
    arguments = ["--memory", "256G", "--huge-pages", "2M"]
    checks = {check["name"]: check for check in bench.data("doctor", *arguments, status=1)["checks"]}
    assert checks["mapping limit"]["status"] == "FAIL"
    assert checks["mapping limit"]["fix"].startswith("blocks of 8 MiB")
    assert checks["huge pages 2 MiB"]["status"] == "FAIL"
    assert "fix: blocks of 8 MiB" in bench.run("doctor", *arguments, status=1)


def test_bind_unbind_restore(bench: Bench) -> None:
    before = [binding(bench.kernel, address) for address in bench.addresses]
    keep = ["--undo-file", str(bench.undo)]
    bound = bench.data("bind", *bench.addresses, *keep)
    assert bench.drivers() == ["vfio-pci"] * 2
    for device in bound["devices"]:
        assert (device["driver_before"], device["driver"]) == (None, "vfio-pci")
        assert exists(bench.kernel, device["node"])
    again = bench.data("bind", *bench.addresses, *keep)
    assert [device["writes"] for device in again["devices"]] == [[], []]
    unbound = bench.data("unbind", bench.addresses[0], *keep)
    assert unbound["devices"][0]["driver_before"] == "vfio-pci"
    assert bench.drivers() == [None, "vfio-pci"]
    restored = bench.data("restore", *keep)
    assert [device["address"] for device in restored["devices"]] == [bench.addresses[1]]
    assert restored["failures"] == []
    assert [binding(bench.kernel, address) for address in bench.addresses] == before
    assert not bench.undo.exists()
    assert bench.data("restore", *keep)["devices"] == []


def test_a_dry_run_writes_nothing(bench: Bench) -> None:
    for command in ("bind", "unbind"):
        text = bench.run(command, "--dry-run", *bench.addresses, "--undo-file", str(bench.undo))
        assert all(re.fullmatch(r"echo .*> /sys/bus/pci/\S+", line) for line in text.splitlines())
        planned = bench.data(command, "--dry-run", *bench.addresses, "--undo-file", str(bench.undo))
        assert planned["dry_run"]
    assert bench.drivers() == [None, None]
    assert not bench.undo.exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["bind", "--expect", "8086:1521"], "it is 1234:11e8, not the 8086:1521"),
        (["bind", "--driver", "no-such"], "modprobe no-such"),
        (["bind", "0000:ff:1f.7"], "no such device"),
        (["show"], None),
    ],
)
def test_refusals_are_one_sentence(bench: Bench, arguments: list[str], error: str | None) -> None:
    status = 0 if error is None else 1
    assert main([*arguments, bench.addresses[0]], Host(bench.kernel)) == status
    said = bench.capture.readouterr().err
    assert said.count("\n") == status
    assert (error or "") in said
    assert bench.drivers() == [None, None]


def test_watch(bench: Bench, kernel_name: str) -> None:
    """What binding a device makes the kernel tell: read by another process that began before."""
    assert main(["watch", "--timeout", "0"]) == 0
    assert bench.capture.readouterr().out == ""
    if kernel_name == "simulated":
        return
    from pyvfio.host import LinuxUevents

    with LinuxUevents() as events:
        bench.run("bind", bench.addresses[0], "--undo-file", str(bench.undo))
        seen = []
        while event := events.next(1.0):
            seen.append((event.action, event.subsystem, event.name))
    group = str(pci_device(bench.kernel, bench.addresses[0]).group)
    assert ("add", "vfio", group) in seen
    assert ("bind", "pci", bench.addresses[0]) in seen
