"""Given back is as it was: drivers, overrides, rules and the owners of nodes, whatever fails, and after a boot."""

from __future__ import annotations

import errno

import pytest

from tests.support.hosts import FakeHost

NIC, TWIN = "0000:03:00.0", "0000:03:00.1"
NODE = "/dev/vfio/12"


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    """Two functions in one group, which igb has."""
    for address in (NIC, TWIN):
        fake_host.pci(address, "8086:1521", 0x020000, driver="igb", group=12)
    return fake_host


def boot(host: FakeHost) -> None:
    """What a boot does that finds a rule: everything in /run is gone, and vfio-pci has the device by its override."""
    host.undo_file.unlink(missing_ok=True)
    for path in host.rules.until_boot.glob("*"):
        path.unlink()
    for rule in host.rules.find():
        address = rule.before.address
        host.file(f"/sys/bus/pci/devices/{address}/driver_override", "vfio-pci\n")
        if host.driver_of(address) != "vfio-pci":
            host.take(address)
            host.give(address, "vfio-pci")


# What fails.


def test_a_driver_that_refuses_its_device_leaves_it_where_it_is(host: FakeHost) -> None:
    host.run("bind", NIC)
    host.drivers["igb"].refuses[NIC] = errno.ENOMEM
    failed = host.run("restore")
    assert (failed.status, "igb did not take it" in failed.err) == (1, True)
    assert "restored" not in failed.out
    assert (host.driver_of(NIC), host.override_of(NIC)) == ("vfio-pci", None)
    del host.drivers["igb"].refuses[NIC]
    assert host.run("restore").out == f"{NIC}: restored to igb\n"


def test_a_device_that_nobody_takes_has_no_override(host: FakeHost) -> None:
    """Neither the new driver nor the former one: no later probe may be told of a driver that nobody wants."""
    for name in ("igb", "vfio-pci"):
        host.drivers[name].refuses[NIC] = errno.ENOMEM
    failed = host.run("bind", NIC)
    assert (failed.status, host.driver_of(NIC), host.override_of(NIC)) == (1, None, None)


def test_a_failed_unbind_of_a_group_leaves_its_node_to_whom_it_was(host: FakeHost) -> None:
    host.run("bind", NIC, TWIN)
    host.owners[NODE] = (7, 36)
    host.errors[f"/sys/bus/pci/devices/{TWIN}/driver_override"] = errno.EIO
    assert host.run("unbind", NIC, TWIN).status == 1
    assert (host.driver_of(NIC), host.owners[NODE]) == ("vfio-pci", (7, 36))


def test_a_chown_that_fails_is_not_said_to_be_restored(host: FakeHost) -> None:
    host.run("bind", TWIN)
    host.run("bind", "--owner", "daemon", NIC)
    host.errors[NODE] = errno.EPERM
    failed = host.run("restore", NIC)
    assert (failed.status, "restored" in failed.out) == (1, False)
    assert f"{NIC}: chown 0:0 {NODE}" in failed.err
    assert (host.driver_of(NIC), [rule.before.address for rule in host.rules.find()]) == ("vfio-pci", [NIC])


# Owners.


def test_a_node_is_given_back_to_whom_it_was(host: FakeHost) -> None:
    host.run("bind", TWIN)
    host.owners[NODE] = (0, 36)
    host.run("bind", "--owner", "daemon:daemon", NIC)
    assert host.owners[NODE] == (1, 1)
    assert f"test ! -e {NODE} || chown 0:36 {NODE}" in host.run("restore", "--dry-run", NIC).out.splitlines()
    host.run("restore", NIC)
    assert (host.driver_of(NIC), host.owners[NODE]) == ("igb", (0, 36))


def test_a_node_of_a_group_has_one_owner(host: FakeHost) -> None:
    host.run("bind", "--owner", "daemon:daemon", NIC)
    refused = host.run("bind", "--owner", "nobody", TWIN)
    assert refused.status == 1
    assert f"the node of the group is daemon:daemon's, by bind --owner for {NIC}" in refused.err
    assert (host.driver_of(TWIN), host.owners[NODE]) == ("igb", (1, 1))
    assert host.run("bind", "--owner", "daemon:daemon", TWIN).status == 0
    host.run("restore", NIC)
    assert host.owners[NODE] == (1, 1)
    host.run("restore", TWIN)
    assert host.rules.find() == []
    host.run("bind", TWIN)
    assert host.owners.get(NODE, (0, 0)) == (0, 0)


# Rules.


def test_a_rule_for_an_owner_and_one_for_every_boot_do_not_hide_each_other(host: FakeHost) -> None:
    """Of two files with one name udev reads one, that of /etc."""
    host.run("bind", "--persist", NIC)
    host.run("bind", "--owner", "daemon", NIC)
    assert len({rule.path.name for rule in host.rules.find()}) == 2
    assert [rule.owner for rule in host.rules.find()] == ["daemon", None]
    # Whoever is named for good is not to be outvoted until the next boot.
    shown = host.run("bind", "--dry-run", "--persist", "--owner", "nobody", NIC).out
    assert f"rm {host.rules.until_boot}" in shown
    host.run("bind", "--persist", "--owner", "nobody", NIC)
    assert [rule.owner for rule in host.rules.find()] == ["nobody"]


def test_after_a_boot_a_device_is_given_back_to_the_driver_it_had_before_its_rule(host: FakeHost) -> None:
    host.run("bind", "--persist", NIC)
    boot(host)
    # The undo file is a new one, and what it notes is what the rule has made.
    host.run("unbind", NIC)
    assert host.undo_file.exists()
    shown = host.run("restore", "--dry-run").out.splitlines()
    assert shown[0] == f"rm {host.rules.for_good}/70-pyvfio-{NIC}.rules"
    assert not any("vfio-pci" in line for line in shown)
    assert host.run("restore").out == f"{NIC}: restored to igb\n"
    assert (host.driver_of(NIC), host.override_of(NIC), host.rules.find()) == ("igb", None, [])
    assert not host.undo_file.exists()


def test_who_unbinds_is_told_of_the_rule_that_stays(host: FakeHost) -> None:
    host.run("bind", "--persist", NIC)
    sentence = f"{host.rules.for_good}/70-pyvfio-{NIC}.rules stays: pyvfio restore {NIC} takes it away"
    assert f"# {sentence}" in host.run("unbind", "--dry-run", NIC).out
    assert f"  {sentence}" in host.run("unbind", NIC).out
