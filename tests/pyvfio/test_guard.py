"""The branch the host sits on: what it needs is refused, by name."""

from __future__ import annotations

import pytest

from pyvfio import HostNeedsDevice
from pyvfio.host import InterfaceUse, LinuxNetwork, require_not_needed
from pyvfio.host.disks import DiskUses
from pyvfio.sim import PciFunction, SimKernel
from tests.support.overlay import OverlayKernel

ADDRESS = "0000:03:00.0"

MOUNTS = """22 1 8:2 / / rw,relatime - ext4 /dev/sda2 rw
23 22 253:1 / /var\\040log rw - xfs /dev/mapper/vg-log rw
24 22 0:30 / /data rw - btrfs /dev/sdd1 rw
25 22 259:1 / /fast rw - ext4 /dev/nvme0n1 rw
26 22 0:5 / /dev rw - devtmpfs udev rw
"""
SWAPS = "Filename Type Size Used Priority\n/dev/sda3 partition 1 0 -2\n/dev/dm-3 partition 1 0 -3\n"
FILES = {
    "/proc/self/mountinfo": MOUNTS,
    "/proc/swaps": SWAPS,
    "/sys/class/block/sda/dev": "8:0\n",
    "/sys/class/block/sda2/dev": "8:2\n",
    "/sys/class/block/sda3/dev": "8:3\n",
    "/sys/class/block/dm-1/dev": "253:1\n",
    "/sys/class/block/sdb1/holders/md0": "",
    "/sys/class/block/md0/holders/dm-1": "",
    "/sys/class/block/sdc/holders/dm-3": "",
    "/sys/class/block/sdf/holders/md9": "",
    "/sys/class/block/nvme0n1/dev": "259:1\n",
    "/sys/fs/btrfs/0a1b/devices/sdd1": "",
    "/sys/fs/btrfs/0a1b/devices/sde1": "",
}


@pytest.mark.parametrize(
    ("disk", "uses"),
    [
        ("sda", []),
        ("sda2", ["sda2 is mounted on /"]),
        ("sda3", ["sda3 is swap"]),
        ("sdb1", ["sdb1 is part of md0, which is part of dm-1, which is mounted on /var log"]),
        ("sdc", ["sdc is part of dm-3, which is swap"]),
        ("sdd1", ["sdd1 is mounted on /data"]),
        ("sde1", ["sde1 is part of a mounted btrfs"]),
        ("sdf", ["sdf is part of md9"]),
        ("nvme0c1n1", ["nvme0c1n1 is mounted on /fast"]),
        ("sdz", []),
    ],
)
def test_what_a_disk_is_used_for(disk: str, uses: list[str]) -> None:
    kernel = OverlayKernel(SimKernel(), FILES, hidden=("/sys/class/block", "/sys/fs/btrfs"))
    assert [str(use) for use in DiskUses(kernel).of(disk)] == uses


class FakeNetwork:
    def __init__(self, *uses: InterfaceUse) -> None:
        self.uses = {use.name: use for use in uses}

    def use(self, interface: str) -> InterfaceUse:
        return self.uses.get(interface, InterfaceUse(interface, link=False))


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (InterfaceUse("eth0", link=False), None),
        (InterfaceUse("eth0", link=False, routes=("default",)), "eth0 carries the default route"),
        (InterfaceUse("eth0", link=False, routes=("10.0.0.0/8",)), r"eth0 carries the route to 10\.0\.0\.0/8"),
        (InterfaceUse("eth0", link=False, addresses=("192.0.2.1/24",)), r"eth0 has the address 192\.0\.2\.1/24"),
        (InterfaceUse("eth0", link=True), "eth0 has an established link"),
        (InterfaceUse("eth0", link=True, master="br0"), "eth0 has an established link in br0"),
    ],
)
def test_an_interface_in_use_is_refused(use: InterfaceUse, reason: str | None) -> None:
    kernel = SimKernel()
    kernel.add(PciFunction(ADDRESS, group=1, host_driver="igb", driver="igb", interfaces=("eth0",)))
    if reason is None:
        require_not_needed(kernel, FakeNetwork(use), [ADDRESS])
        return
    with pytest.raises(HostNeedsDevice, match=f"{ADDRESS}: {reason}.*--force"):
        require_not_needed(kernel, FakeNetwork(use), [ADDRESS])


def test_a_mounted_disk_is_refused() -> None:
    kernel = SimKernel()
    kernel.add(PciFunction(ADDRESS, group=1, host_driver="ahci", driver="ahci", disks=("sda", "sda2")))
    with pytest.raises(HostNeedsDevice, match=f"{ADDRESS}: sda2 is mounted on /"):
        require_not_needed(OverlayKernel(kernel, {"/proc/self/mountinfo": MOUNTS}), FakeNetwork(), [ADDRESS])


def test_functions_of_a_function_are_its_own() -> None:
    """A physical function's driver takes its virtual functions with it."""
    kernel = SimKernel()
    kernel.add(PciFunction(ADDRESS, group=1, host_driver="igb", driver="igb"))
    virtual = "0000:03:10.0"
    kernel.add(PciFunction(virtual, group=2, host_driver="igbvf", driver="igbvf", interfaces=("eth7",)))
    device = f"/sys/bus/pci/devices/{ADDRESS}"
    links = {"virtfn0": f"../{virtual}", "driver": "igb", "iommu_group": "1"}
    overlay = OverlayKernel(kernel, links={f"{device}/{name}": target for name, target in links.items()})
    network = FakeNetwork(InterfaceUse("eth7", link=False, routes=("default",)))
    with pytest.raises(HostNeedsDevice, match="eth7 carries the default route"):
        require_not_needed(overlay, network, [ADDRESS])


def test_a_device_without_a_driver_serves_nobody() -> None:
    kernel = SimKernel()
    kernel.add(PciFunction(ADDRESS, group=1))
    require_not_needed(kernel, FakeNetwork(), [ADDRESS])


def test_the_running_kernels_loopback() -> None:
    use = LinuxNetwork().use("lo")
    assert use.link
    assert "127.0.0.1/8" in use.addresses
    assert LinuxNetwork().use("no-such-if").reasons == []
