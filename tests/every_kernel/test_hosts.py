"""Rules about hosts that a real kernel answers: what can be bound, who is in the way, who would miss a device."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyvfio import Container, DeviceNotBound, Group, HostNeedsDevice, Kernel, LinuxKernel
from pyvfio.cli import main
from pyvfio.drivers.edu import edu_addresses
from pyvfio.host import Host, InterfaceUse, LinuxNetwork, bind, plan_bind, require_not_needed, restore
from pyvfio.host.binding import DRIVERS, PROBE, binding
from pyvfio.kernel import write_text
from pyvfio.sim import SimKernel
from pyvfio.sim.devices import PciFunction
from pyvfio.sysfs import DEVICES, block_devices, character_device, interfaces, pci_device, pci_devices, virtio_devices
from tests.support.kernels.hardware import NVME, bound, virtual_function
from tests.support.kernels.testbed import Testbed

_NEW_NETWORK = 0x4000_0000
"""linux/sched.h: CLONE_NEWNET"""


class NoNetwork:
    def use(self, interface: str) -> InterfaceUse:
        raise AssertionError(interface)


@pytest.fixture
def machine(kernel_name: str) -> Kernel:
    """With a host bridge and an ISA bridge, as class and header tell them, and a port above an edu device."""
    if kernel_name != "simulated":
        return LinuxKernel()
    kernel = SimKernel(edu_devices=2)
    kernel.add(PciFunction("0000:00:00.0", 0, 0x8086, 0x29C0, 0x060000))
    kernel.add(PciFunction("0000:00:1f.0", 11, 0x8086, 0x2918, 0x060100))
    kernel.add(PciFunction("0000:00:05.0", 5, 0x1B36, 0x000E, 0x060400, header_type=1))
    return kernel


@pytest.mark.needs("type1")
def test_what_has_the_class_of_a_bridge_and_the_header_of_a_device_can_be_bound(machine: Kernel) -> None:
    found = [device for device in pci_devices(machine) if device.class_code >> 16 == 6 and device.driver is None]
    devices = [device for device in found if not device.is_bridge]
    assert {device.class_code >> 8 for device in devices} >= {0x0600, 0x0601}
    for device in devices:
        before = bind(machine, device.address)
        try:
            assert device.group is not None
            with Container(kernel=machine) as container:
                container.attach(Group(device.group, kernel=machine))
        finally:
            restore(machine, before)


@pytest.mark.needs("type1", "shared-group")
def test_only_the_drivers_own_bind_tells_of_a_probe_that_failed(machine: Kernel) -> None:
    """A bridge, which vfio-pci refuses for its header type."""
    bridge = next(each for each in pci_devices(machine) if each.is_bridge and each.driver is None).address
    override = f"{DEVICES}/{bridge}/driver_override"
    write_text(machine, override, "vfio-pci")
    try:
        write_text(machine, PROBE, bridge)
        assert pci_device(machine, bridge).driver is None
        with pytest.raises(OSError, match="Invalid argument") as refused:
            write_text(machine, f"{DRIVERS}/vfio-pci/bind", bridge)
        assert refused.value.errno == errno.EINVAL
    finally:
        write_text(machine, override, "\n")


@pytest.mark.needs("type1")
def test_a_virtual_function_in_use_keeps_its_physical_function(testbed: Testbed) -> None:
    """Whoever holds the function below, and whatever driver the function above has."""
    kernel = testbed.kernel
    with bound(testbed, NVME) as physical, virtual_function(testbed, physical) as virtual:
        group = pci_device(kernel, virtual).group
        assert group is not None
        with pytest.raises(HostNeedsDevice) as enabled:
            require_not_needed(kernel, NoNetwork(), [physical])
        assert "a virtual function of it is enabled" in str(enabled.value)
        with Group(group, kernel=kernel), pytest.raises(HostNeedsDevice) as used:
            require_not_needed(kernel, NoNetwork(), [physical])
        assert f"its virtual function {virtual}: " in str(used.value)
        assert "and unbinding waits until it closes it" in str(used.value)


@pytest.mark.needs("real", "nvme-disk", "intel")
def test_a_physical_function_with_virtual_ones_is_refused(kernel_name: str) -> None:
    """Its own driver leaves them when it goes."""
    assert kernel_name
    kernel = LinuxKernel()
    address = next(device.address for device in pci_devices(kernel) if device.driver == "nvme")
    device = f"{DEVICES}/{address}"
    before = binding(kernel, address)
    write_text(kernel, f"{device}/sriov_numvfs", "1")
    try:
        write_text(kernel, f"{DRIVERS}/nvme/unbind", address)
        with pytest.raises(DeviceNotBound, match="1 virtual function of it is enabled"):
            plan_bind(kernel, [address], "vfio-pci")
        write_text(kernel, f"{device}/driver_override", "vfio-pci")
        with pytest.raises(OSError, match="busy") as refused:
            write_text(kernel, f"{DRIVERS}/vfio-pci/bind", address)
        assert refused.value.errno == errno.EBUSY
        with pytest.raises(FileNotFoundError):
            write_text(kernel, f"{device}/sriov_numvfs", "0")
    finally:
        restore(kernel, before)
        write_text(kernel, f"{device}/sriov_numvfs", "0")


@pytest.mark.needs("cdev")
def test_who_has_a_devices_own_node_open_is_seen(testbed: Testbed, kernel_name: str) -> None:
    """Also before it is bound to an iommufd, when the group can be opened by others."""
    if kernel_name == "simulated":
        pytest.skip("its descriptors are not in /proc")
    kernel, address = testbed.kernel, testbed.devices[0]
    node = character_device(kernel, address)
    assert node is not None
    fd = kernel.open(node, os.O_RDWR)
    try:
        with pytest.raises(HostNeedsDevice) as used:
            require_not_needed(kernel, NoNetwork(), [address])
        assert f"(pid {os.getpid()}) has {node} open" in str(used.value)
    finally:
        kernel.close(fd)
    require_not_needed(kernel, NoNetwork(), [address])


@pytest.mark.needs("real", "type1", "nvme-disk", "express-dma")
def test_a_disk_that_somebody_holds_is_refused(kernel_name: str) -> None:
    """As a file system, swap, or a volume manager does: for itself, whatever it is."""
    assert kernel_name
    kernel = LinuxKernel()
    (address,) = (device.address for device in pci_devices(kernel) if device.driver == "nvme")
    (disk,) = block_devices(kernel, address)
    with in_child(lambda: os.open(f"/dev/{disk}", os.O_RDONLY | os.O_EXCL)) as pid:
        with pytest.raises(HostNeedsDevice) as used:
            require_not_needed(kernel, NoNetwork(), [address])
        assert f"{address}: {disk} is in use: the kernel lends it to nobody else" in str(used.value)
        assert f"(pid {pid}) has /dev/{disk} open" in str(used.value)
    require_not_needed(kernel, NoNetwork(), [address])


@pytest.mark.needs("real", "type1", "nvme-disk")
def test_a_disk_that_the_kernel_cannot_be_asked_about_is_refused(kernel_name: str) -> None:
    """Its node may be missing, as in a container, or be another's."""
    assert kernel_name
    kernel = LinuxKernel()
    (address,) = (device.address for device in pci_devices(kernel) if device.driver == "nvme")
    (disk,) = block_devices(kernel, address)
    node = Path(f"/dev/{disk}")
    away = node.rename(f"/dev/{disk}-away")
    try:
        with pytest.raises(HostNeedsDevice, match=rf"{disk} may be in use: .*\(No such file or directory\)"):
            require_not_needed(kernel, NoNetwork(), [address])
        node.touch()
        with pytest.raises(HostNeedsDevice, match=rf"{disk} may be in use: .*\({node} is something else\)"):
            require_not_needed(kernel, NoNetwork(), [address])
    finally:
        away.rename(node)
    require_not_needed(kernel, NoNetwork(), [address])


@pytest.mark.needs("real", "type1")
def test_a_file_system_by_virtio_is_refused(kernel_name: str) -> None:
    """The machine's own root, which no list of mounts shows. Unbinding its device would wait for ever."""
    assert kernel_name
    kernel = LinuxKernel()
    (address,) = (
        device.address
        for device in pci_devices(kernel)
        if any(virtio.driver == "9pnet_virtio" for virtio in virtio_devices(kernel, device.address))
        and not device.is_bridge
    )
    with pytest.raises(HostNeedsDevice, match=f"{address}: its 9p file system host may be in use"):
        require_not_needed(kernel, NoNetwork(), [address])


@pytest.mark.needs("real", "type1")
@pytest.mark.skipif(shutil.which("ip") is None, reason="no ip here")
def test_an_interface_in_another_namespace_is_refused(kernel_name: str) -> None:
    assert kernel_name
    kernel = LinuxKernel()
    address = next(each.address for each in pci_devices(kernel) if interfaces(kernel, each.address))
    (name,) = interfaces(kernel, address)
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    with in_child(lambda: unshare(_NEW_NETWORK)) as pid:
        subprocess.run(["ip", "link", "set", name, "netns", str(pid)], check=True)
        assert interfaces(kernel, address) == []
        with pytest.raises(HostNeedsDevice, match=f"{address}: its network interface is in another network namespace"):
            require_not_needed(kernel, LinuxNetwork(), [address])
    # With its last process the namespace goes, and its interfaces come back.
    for _ in range(100):
        if interfaces(kernel, address):
            break
        subprocess.run(["sleep", "0.1"], check=True)
    require_not_needed(kernel, LinuxNetwork(), [address])


@pytest.mark.needs("real", "type1")
@pytest.mark.skipif(shutil.which("udevadm") is None, reason="no udev here")
def test_udev_gives_the_node_of_a_bound_device_to_its_owner(
    kernel_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked without a running udev: which rules it would apply, and what they say."""
    assert kernel_name
    kernel = LinuxKernel()
    address = edu_addresses(kernel)[0]
    host = Host(kernel, undo_file=tmp_path / "undo.json")
    try:
        assert main(["bind", "--owner", "daemon:daemon", "--persist", address], host) == 0
        group = pci_device(kernel, address).group
        status = Path(f"/dev/vfio/{group}").stat()
        assert (status.st_uid, status.st_gid) == (1, 1)
        (rule,) = host.rules.find(address)
        asked = {}
        for device in (f"/sys/class/vfio/{group}", f"/sys/bus/pci/devices/{address}"):
            said = subprocess.run(
                ["udevadm", "test", "--action=add", device], check=False, capture_output=True, text=True
            )
            asked[device] = [line for line in (said.stdout + said.stderr).splitlines() if rule.path.name in line]
        owned, driven = asked.values()
        assert any("OWNER 1" in line or "OWNER=1" in line or "owner" in line.lower() for line in owned), owned
        assert any("driver_override" in line for line in driven), driven
    finally:
        capsys.readouterr()
        assert main(["restore"], host) == 0
    assert host.rules.find(address) == []


@contextmanager
def in_child(action: object) -> Iterator[int]:
    """Its process id, while a process that has done action waits."""
    assert callable(action)
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            action()
            os.write(told, b"1")
            signal.pause()
        os._exit(1)
    os.close(told)
    try:
        assert os.read(ready, 1) == b"1"
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
