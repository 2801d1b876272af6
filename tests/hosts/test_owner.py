"""Who may open a device, and at which boots: udev rules by address and kind, shown, and taken back by restore."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from pathlib import Path
from typing import Self

import pytest

from pyvfio.cli import main
from pyvfio.cli.changes import needs_root
from pyvfio.commandline import Failure
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.host import Host, RuleDirectories, Uevent
from tests.support.hosts import FakeHost
from tests.support.schemas import checked

NIC = "0000:03:00.0"
OWNER = "daemon:daemon"


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    place = fake_host.pci(NIC, "8086:1521", 0x020000, driver="igb", group=12)
    fake_host.file(f"{place}/vfio-dev/vfio0/dev", "511:0\n")
    fake_host.file("/dev/vfio/devices/vfio0", "")
    return fake_host


def state(host: FakeHost) -> tuple[object, ...]:
    files = [path.read_text() for path in sorted(host.undo_file.parent.glob("*/7?-*"))]
    nodes = {node: owner for node, owner in host.owners.items() if owner != (0, 0)}
    return host.driver_of(NIC), host.override_of(NIC), files, nodes, host.undo_file.exists()


def test_the_nodes_are_the_owners_as_long_as_they_are_there(host: FakeHost) -> None:
    before = state(host)
    bound = host.run("bind", "--owner", OWNER, NIC)
    rule = host.rules.until_boot / f"71-pyvfio-{NIC}.rules"
    assert bound.out.splitlines() == [f"{NIC}: igb -> vfio-pci  /dev/vfio/12", f"  {rule}"]
    assert host.owners == {"/dev/vfio/12": (1, 1), "/dev/vfio/devices/vfio0": (1, 1)}
    assert host.run("restore").out == f"{NIC}: restored to igb\n"
    assert state(host) == before


def test_a_rule_goes_by_the_device_and_never_by_the_number_of_its_group(host: FakeHost) -> None:
    host.run("bind", "--owner", OWNER, "--persist", NIC)
    text = (host.rules.for_good / f"70-pyvfio-{NIC}.rules").read_text()
    rules = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(rules) == 3
    for line in rules:
        assert NIC in line
        assert "pci:v00008086d00001521sv" in line
        assert "12" not in line.replace(NIC, "").replace("1521", "")
    assert 'ATTR{driver_override}="vfio-pci"' in rules[0]
    assert all('OWNER="daemon", GROUP="daemon"' in line for line in rules[1:])


@pytest.mark.skipif(shutil.which("udevadm") is None, reason="no udev here")
def test_udev_understands_the_rules(host: FakeHost) -> None:
    host.run("bind", "--owner", OWNER, "--persist", NIC)
    rule = next(host.rules.for_good.iterdir())
    known = subprocess.run(["udevadm", "verify", "--help"], check=False, capture_output=True)
    if known.returncode:
        pytest.skip("udevadm verify came with systemd 254")
    subprocess.run(["udevadm", "verify", str(rule)], check=True)


def test_a_device_bound_at_boot_is_given_back_without_an_undo_file(host: FakeHost) -> None:
    """It was lost with the boot, like everything in /run; the rule knows."""
    host.run("bind", "--persist", NIC)
    host.undo_file.unlink()
    shown = host.run("restore", "--dry-run").out.splitlines()
    assert shown[0] == f"rm {host.rules.for_good}/70-pyvfio-{NIC}.rules"
    assert host.run("restore", NIC).out == f"{NIC}: restored to igb\n"
    assert host.driver_of(NIC) == "igb"
    assert host.rules.find() == []


def test_what_was_first_stays_in_the_rule(host: FakeHost) -> None:
    host.run("bind", NIC)
    host.run("bind", "--persist", NIC)
    assert [rule.before.driver for rule in host.rules.find()] == ["igb"]
    host.undo_file.unlink()
    host.run("bind", "--owner", OWNER, NIC)
    assert [rule.before.driver for rule in host.rules.find()] == ["igb", "igb"]


def test_a_dry_run_is_a_script_of_every_write(host: FakeHost) -> None:
    text = host.run("bind", "--dry-run", "--owner", OWNER, "--persist", NIC).out
    assert state(host) == ("igb", None, [], {}, False)
    host.run("bind", "--owner", OWNER, "--persist", NIC)
    rule = host.rules.for_good / f"70-pyvfio-{NIC}.rules"
    assert f"cat > {rule} << 'END'\n{rule.read_text()}END\nudevadm control --reload\n" in text
    for path, written in host.kernel.writes:
        assert f"echo {written} > {path}".replace("  ", " ") in text
    assert f"chown {OWNER} /dev/vfio/12" in text
    assert f"chown {OWNER} /dev/vfio/devices/$node" in text
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


class Quiet:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def next(self, timeout: float | None = None) -> Uevent | None:  # noqa: ARG002
        return None


@pytest.mark.parametrize("command", ["bind", "restore"])
@pytest.mark.parametrize(("name", "count"), [("write", 4), ("chown", 2), ("owner", 2)])
def test_a_failure_at_every_write_leaves_the_host_as_it_was(
    host: FakeHost, command: str, name: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bind", "--owner", OWNER, "--persist", NIC]
    if command == "restore":
        host.run(*arguments)
        arguments = ["restore"]
    before, failed = state(host), 0
    for nth in range(count):
        kernel = FaultyKernel(host.kernel, Fault(nth=nth, name=name, errno=errno.EIO))
        status = main(arguments, Host(kernel, host, uevents=Quiet, undo_file=host.undo_file, rules=host.rules))
        if status:
            failed += 1
            assert state(host) == before
        elif command == "restore":
            assert state(host) == ("igb", None, [], {}, False)
            before = prepared(host, command)
    assert failed or (command, name) == ("restore", "chown")
    capsys.readouterr()


def prepared(host: FakeHost, command: str) -> tuple[object, ...]:
    if command == "restore":
        host.run("bind", "--owner", OWNER, "--persist", NIC)
    return state(host)


@pytest.mark.parametrize("command", ["bind", "restore"])
def test_a_rule_that_cannot_be_changed(host: FakeHost, command: str, tmp_path: Path) -> None:
    """Nothing else is changed then."""
    if command == "restore":
        host.run("bind", "--persist", NIC)
    before = state(host)

    def refuse() -> None:
        raise OSError(errno.EIO, "no udev")

    (tmp_path / "etc").mkdir(exist_ok=True)
    host.rules = RuleDirectories(host.rules.until_boot, host.rules.for_good, reload=refuse)
    failed = host.run(command, *(["--persist", NIC] if command == "bind" else []))
    assert failed.status == 1
    host.rules = RuleDirectories(host.rules.until_boot, host.rules.for_good, reload=lambda: None)
    assert state(host) == before


def test_who_is_not_root_is_told_so(host: FakeHost) -> None:
    for command in ("bind", "unbind"):
        host.errors[f"/sys/bus/pci/devices/{NIC}/driver_override"] = 0
        host.kernel.refused_writes = errno.EACCES
        said = host.run(command, NIC)
        assert (said.status, said.err.count("\n")) == (1, 1)
        assert "run it as root" in said.err.lower()
        assert "chown" not in said.err


def test_who_may_not_write_the_undo_file_is_told_so_in_one_sentence() -> None:
    with pytest.raises(Failure, match="bind changes the host: run it as root") as said, needs_root("bind"):
        raise PermissionError(errno.EACCES, "Permission denied", "/run/pyvfio")
    assert "/run/pyvfio" in str(said.value)


def test_there_is_no_such_user(host: FakeHost) -> None:
    refused = host.run("bind", "--owner", "nobody-of-that-name", NIC)
    assert (refused.status, "there is no user nobody-of-that-name" in refused.err) == (1, True)
    assert "there is no group x-x" in host.run("bind", "--owner", "root:x-x", NIC).err


def test_as_data(host: FakeHost) -> None:
    bound = json.loads(host.run("bind", "--json", "--owner", "1", NIC).out)
    checked("pyvfio-bind", bound)
    assert bound["rules"] == [str(host.rules.until_boot / f"71-pyvfio-{NIC}.rules")]
    checked("pyvfio-restore", json.loads(host.run("restore", "--json").out))
