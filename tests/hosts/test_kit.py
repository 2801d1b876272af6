"""The kit itself: a host as a directory tree, and the real commands on it."""

from __future__ import annotations

import errno

import pytest

from tests.support.hosts import FakeHost

NIC = "0000:03:00.0"


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    """A network card that nobody uses."""
    place = fake_host.pci(NIC, "8086:1521", 0x020000, driver="igb", group=12)
    fake_host.net("eth0", place)
    return fake_host


def test_bind_and_restore(host: FakeHost) -> None:
    bound = host.run("bind", NIC)
    assert bound.out == f"{NIC}: igb -> vfio-pci  /dev/vfio/12\n"
    assert (host.driver_of(NIC), host.override_of(NIC)) == ("vfio-pci", None)
    assert host.run("restore").out == f"{NIC}: restored to igb\n"
    assert host.driver_of(NIC) == "igb"
    assert not host.at("/dev/vfio/12").exists()


@pytest.mark.parametrize("command", ["bind", "unbind", "restore"])
def test_a_dry_run_names_every_write(host: FakeHost, command: str) -> None:
    if command == "restore":
        host.run("bind", NIC)
    host.kernel.writes.clear()
    shown = host.run(command, "--dry-run", NIC).out.splitlines()
    assert host.kernel.writes == []
    host.run(command, NIC)
    assert shown == [f"echo {text} > {path}".replace("  ", " ") for path, text in host.kernel.writes]


def test_a_probe_that_fails_is_found_out(host: FakeHost) -> None:
    """The write to drivers_probe succeeds all the same, as on Linux."""
    host.driver("vfio-pci").refuses[NIC] = errno.EINVAL
    refused = host.run("bind", NIC)
    assert refused.status == 1
    assert "vfio-pci did not take it: its driver is none" in refused.err
    assert host.driver_of(NIC) == "igb"


def test_list_shows_what_is_laid_out(host: FakeHost) -> None:
    assert "eth0" in host.run("list").out
    assert host.run("doctor").status == 1
    assert host.run("plan", "--region", "1G", "--no-measure", program="virtiomem").status in (0, 1)
