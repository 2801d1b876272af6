"""Hosts that need a device, and what bind says of it."""

from __future__ import annotations

from tests.support.hosts import FakeHost, Ran

DEVICE = "0000:03:00.0"


def refusal(host: FakeHost, address: str = DEVICE, command: str = "bind") -> str:
    """Why bind does not take the device; "" if it would. The dry run says the same, and --force takes it."""
    ran: Ran = host.run(command, "--dry-run", address)
    real = host.run(command, address) if ran.status else ran
    assert real.err == ran.err
    assert host.run(command, "--dry-run", "--force", address).status == 0
    return ran.err


def ssd(host: FakeHost) -> str:
    """With a partition."""
    place = host.pci(DEVICE, "8086:0a54", 0x010802, driver="nvme", group=30)
    host.disk("nvme0n1", f"{place}/nvme/nvme0", "259:0")
    host.disk("nvme0n1p3", f"{place}/nvme/nvme0/nvme0n1", "259:3")
    return place


def mounts(*lines: str) -> str:
    """A mountinfo. lines: each from the number of the device on."""
    return "".join(f"{number} 1 {line}\n" for number, line in enumerate(lines, 20))
