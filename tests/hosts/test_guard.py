"""The branch the host sits on: what it needs is refused, by name."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pyvfio.host import InterfaceUse, LinuxNetwork
from tests.support.guarded import DEVICE, mounts, refusal, ssd
from tests.support.hosts import FakeHost

NVME = f"{DEVICE}: nvme0n1"
HEAD = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"


def unused(host: FakeHost) -> None:
    ssd(host)


def mounted(host: FakeHost) -> None:
    ssd(host)
    host.file("/proc/self/mountinfo", mounts("259:3 / / rw - ext4 /dev/nvme0n1p3 rw"))


def swap(host: FakeHost) -> None:
    ssd(host)
    host.file("/proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p3 partition 1 0 -2\n")


def lvm_on_md(host: FakeHost) -> None:
    place = ssd(host)
    host.disk("nvme0n1p3", f"{place}/nvme/nvme0/nvme0n1", "259:3", holders=("md0",))
    host.disk("md0", "/sys/devices/virtual/block", "9:0", holders=("dm-1",))
    host.disk("dm-1", "/sys/devices/virtual/block", "253:1")
    host.file("/proc/self/mountinfo", mounts("253:1 / /var\\040log rw - xfs /dev/mapper/vg-log rw"))


def btrfs(host: FakeHost) -> None:
    ssd(host)
    host.file("/sys/fs/btrfs/0a1b/devices/nvme0n1p3", "")


def zfs(host: FakeHost) -> None:
    """No holder and no mount names the disk: its label does."""
    ssd(host)
    host.exclusive |= {"/dev/nvme0n1", "/dev/nvme0n1p3"}
    host.file("/proc/self/mountinfo", mounts("0:25 / / rw - zfs rpool/ROOT/pve-1 rw"))
    label = b"\0\0\0\x24\0\0\0\x20\0\0\0\x04name\0\0\0\x09\0\0\0\x01\0\0\0\x05rpool\0\0\0"
    host.at("/dev/nvme0n1p3").write_bytes(b"\0" * 0x4000 + label)


def bcachefs_on_two_disks(host: FakeHost) -> None:
    ssd(host)
    host.file("/proc/self/mountinfo", mounts("0:25 / / rw - bcachefs /dev/sda2:/dev/nvme0n1p3 rw"))


def bcachefs_elsewhere(host: FakeHost) -> None:
    ssd(host)
    host.exclusive.add("/dev/nvme0n1p3")
    magic = bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")
    host.at("/dev/nvme0n1p3").write_bytes(b"\0" * 0x1018 + magic)


def in_another_mount_namespace(host: FakeHost) -> None:
    ssd(host)
    host.exclusive |= {"/dev/nvme0n1", "/dev/nvme0n1p3"}
    host.process(77, "postgres", mounts=mounts("259:3 / /var/lib/pg rw - ext4 /dev/nvme0n1p3 rw"))


def held_by_nobody_known(host: FakeHost) -> None:
    ssd(host)
    host.exclusive |= {"/dev/nvme0n1", "/dev/nvme0n1p3"}


def read_by_a_program(host: FakeHost) -> None:
    ssd(host)
    host.process(78, "qemu-system-x86", "/dev/nvme0n1")


def multipath(host: FakeHost, *, holders: tuple[str, ...] = ()) -> None:
    """Native NVMe multipath: the function has a path, and partitions are on a head that is no function's."""
    place = host.pci(DEVICE, "8086:0a54", 0x010802, driver="nvme", group=30)
    host.disk("nvme0c1n1", f"{place}/nvme/nvme1", "259:9")
    host.disk("nvme0n1", HEAD, "259:0")
    host.disk("nvme0n1p2", f"{HEAD}/nvme0n1", "259:2", holders=holders)
    host.disk("nvme0n10", HEAD, "259:7", in_use=True)


def multipath_read_by_a_program(host: FakeHost) -> None:
    multipath(host)
    host.process(78, "dd", "/dev/nvme0n1")


def multipath_root(host: FakeHost) -> None:
    multipath(host)
    host.file("/proc/self/mountinfo", mounts("259:2 / / rw - ext4 /dev/nvme0n1p2 rw"))


def multipath_lvm(host: FakeHost) -> None:
    multipath(host, holders=("dm-0",))
    host.disk("dm-0", "/sys/devices/virtual/block", "253:0")
    host.file("/proc/self/mountinfo", mounts("253:0 / / rw - ext4 /dev/mapper/vg-root rw"))


def a_name_that_moves_the_cursor(host: FakeHost) -> None:
    ssd(host)
    host.file("/proc/self/mountinfo", mounts("259:3 / /mnt/\x1b[2J\u2028x rw - ext4 /dev/nvme0n1p3 rw"))


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (unused, ""),
        (multipath, ""),
        (mounted, "nvme0n1p3 is mounted on /"),
        (swap, "nvme0n1p3 is swap"),
        (lvm_on_md, "nvme0n1p3 is part of md0, which is part of dm-1, which is mounted on /var log"),
        (btrfs, "nvme0n1p3 is part of a mounted btrfs"),
        (zfs, "nvme0n1p3 is part of the ZFS pool rpool"),
        (bcachefs_on_two_disks, "nvme0n1p3 is mounted on /"),
        (bcachefs_elsewhere, "nvme0n1p3 is part of a bcachefs"),
        (in_another_mount_namespace, "is mounted on /var/lib/pg in the mount namespace of postgres (pid 77)"),
        (held_by_nobody_known, "nvme0n1p3 is in use: the kernel lends it to nobody else"),
        (read_by_a_program, "qemu-system-x86 (pid 78) has /dev/nvme0n1 open"),
        (multipath_root, "nvme0n1p2 is mounted on /"),
        (multipath_read_by_a_program, "dd (pid 78) has /dev/nvme0n1 open"),
        (multipath_lvm, "nvme0n1p2 is part of dm-0, which is mounted on /"),
        (a_name_that_moves_the_cursor, r"nvme0n1p3 is mounted on /mnt/\x1b[2J\u2028x"),
    ],
)
def test_disks(fake_host: FakeHost, layout: Callable[[FakeHost], None], sentence: str) -> None:
    layout(fake_host)
    said = refusal(fake_host)
    assert sentence in said
    assert bool(said) == bool(sentence)
    assert said.count("\n") == bool(sentence)


def test_a_disk_is_in_use_once(fake_host: FakeHost) -> None:
    """Whoever holds a partition holds the disk too."""
    zfs(fake_host)
    assert refusal(fake_host).count("nvme0n1") == 1


def gpu(host: FakeHost) -> str:
    place = host.pci(DEVICE, "10de:1b06", 0x030000, driver="nvidia", group=15)
    host.node("drm", "card0", place, "dri/card0")
    return place


def idle_gpu(host: FakeHost) -> None:
    gpu(host)


def boot_display(host: FakeHost) -> None:
    host.file(f"{gpu(host)}/boot_vga", "1\n")


def framebuffer(host: FakeHost) -> None:
    host.node("graphics", "fb0", gpu(host), "fb0")


def gpu_of_a_desktop(host: FakeHost) -> None:
    gpu(host)
    for pid, name in ((900, "Xorg"), (901, "gnome-shell"), (902, "firefox"), (903, "mpv")):
        host.process(pid, name, "/dev/dri/card0")


def gpu_of_a_container(host: FakeHost) -> None:
    """Which sees the node by the root of its own /dev."""
    gpu(host)
    host.process(900, "ollama", "/dri/card0")


def gpu_that_computes(host: FakeHost) -> None:
    gpu(host)
    host.file(f"/proc/driver/nvidia/gpus/{DEVICE}/information", "Model: \t GTX\nDevice Minor: \t 3\n")
    host.process(900, "python3", "/dev/nvidiactl", "/dev/nvidia3")


def another_gpu_computes(host: FakeHost) -> None:
    gpu(host)
    host.file(f"/proc/driver/nvidia/gpus/{DEVICE}/information", "Model: \t GTX\nDevice Minor: \t 3\n")
    host.process(900, "python3", "/dev/nvidiactl", "/dev/nvidia0")


def keyboard(host: FakeHost, path: str = f"pci0000:00/{DEVICE}/usb1/1-3/1-3:1.0/input/input5") -> None:
    host.pci(DEVICE, "8086:a36d", 0x0C0330, driver="xhci_hcd", group=4)
    host.file(
        "/proc/bus/input/devices",
        'I: Bus=0019 Vendor=0000\nN: Name="Power Button"\nS: Sysfs=/devices/LNXSYSTM:00/input/input0\n'
        'H: Handlers=kbd event0\n\nI: Bus=0003 Vendor=046d\nN: Name="Logitech K120"\nP: Phys=usb-1\n'
        f"S: Sysfs=/devices/{path}\nU: Uniq=\nH: Handlers=sysrq kbd leds event3 \nB: EV=120013\n",
    )


def keyboard_of_another(host: FakeHost) -> None:
    keyboard(host, "pci0000:00/0000:00:14.0/usb1/1-3/1-3:1.0/input/input5")


def serial_console(host: FakeHost) -> None:
    place = host.pci(DEVICE, "1415:c158", 0x070002, driver="serial", group=6)
    host.node("tty", "ttyS4", place, "ttyS4")
    host.file("/sys/class/tty/console/active", "tty0 ttyS4\n")


def serial_port_with_a_getty(host: FakeHost) -> None:
    serial_console(host)
    host.file("/sys/class/tty/console/active", "tty0\n")
    host.process(1, "agetty", "/dev/ttyS4")


def interface_in_another_namespace(host: FakeHost) -> None:
    """sysfs keeps the directory, and shows what is in it only where it is."""
    place = host.pci(DEVICE, "15b3:1019", 0x020000, driver="mlx5_core", group=5)
    host.at(f"{place}/net").mkdir()


def virtio_interface_in_another_namespace(host: FakeHost) -> None:
    place = host.pci(DEVICE, "1af4:1041", 0x020000, driver="virtio-pci", group=5)
    host.at(f"{host.virtio('virtio1', place, 'virtio_net')}/net").mkdir()


def functions_enabled(host: FakeHost) -> None:
    place = host.pci(DEVICE, "8086:1521", 0x020000, driver="igb", group=5, sriov_numvfs="2")
    host.pci("0000:03:10.0", "8086:1520", 0x020000, driver="vfio-pci", group=6)
    host.link(f"{place}/virtfn0", "/sys/devices/pci0000:00/0000:03:10.0")


def function_in_a_guest(host: FakeHost) -> None:
    functions_enabled(host)
    host.process(4242, "qemu-system-x86", "/dev/vfio/6")


def function_with_an_interface(host: FakeHost) -> None:
    functions_enabled(host)
    host.take("0000:03:10.0")
    host.net("eth7", "/sys/devices/pci0000:00/0000:03:10.0")
    host.interfaces["eth7"] = InterfaceUse("eth7", link=False, routes=("default",))


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (idle_gpu, ""),
        (another_gpu_computes, ""),
        (keyboard_of_another, ""),
        (boot_display, "it is the display that the machine booted with, where the console is"),
        (framebuffer, "fb0, the framebuffer of the console, is on it"),
        (
            gpu_of_a_desktop,
            "Xorg (pid 900), gnome-shell (pid 901), firefox (pid 902) and 1 more have /dev/dri/card0 open",
        ),
        (gpu_of_a_container, "ollama (pid 900) has /dev/dri/card0 open"),
        (gpu_that_computes, "python3 (pid 900) has /dev/nvidia3 open"),
        (keyboard, "the keyboard Logitech K120 is on it"),
        (serial_console, "ttyS4 is a console of the kernel"),
        (serial_port_with_a_getty, "agetty (pid 1) has /dev/ttyS4 open"),
        (interface_in_another_namespace, "its network interface is in another network namespace"),
        (virtio_interface_in_another_namespace, "its network interface is in another network namespace"),
        (functions_enabled, "2 virtual functions of it are enabled (echo 0 > "),
        (function_in_a_guest, "its virtual function 0000:03:10.0: qemu-system-x86 (pid 4242) has /dev/vfio/6 open"),
        (function_with_an_interface, "eth7 carries the default route"),
    ],
)
def test_other_devices(fake_host: FakeHost, layout: Callable[[FakeHost], None], sentence: str) -> None:
    layout(fake_host)
    said = refusal(fake_host)
    assert sentence in said
    assert bool(said) == bool(sentence)


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        (InterfaceUse("eth0", link=False), ""),
        (InterfaceUse("eth0", link=False, routes=("default",)), "eth0 carries the default route"),
        (InterfaceUse("eth0", link=False, routes=("10.0.0.0/8",)), "eth0 carries the route to 10.0.0.0/8"),
        (InterfaceUse("eth0", link=False, addresses=("192.0.2.1/24",)), "eth0 has the address 192.0.2.1/24"),
        (InterfaceUse("eth0", link=True), "eth0 has an established link"),
        (InterfaceUse("eth0", link=True, master="br0"), "eth0 has an established link in br0"),
    ],
)
def test_interfaces(fake_host: FakeHost, use: InterfaceUse, sentence: str) -> None:
    fake_host.net("eth0", fake_host.pci(DEVICE, "8086:1521", 0x020000, driver="igb", group=12))
    fake_host.interfaces["eth0"] = use
    said = refusal(fake_host)
    assert sentence in said
    assert bool(said) == bool(sentence)


def test_no_name_of_an_interface_moves_the_cursor(fake_host: FakeHost) -> None:
    """The kernel takes an escape for a name."""
    name, bridge = "e\x1b[31mx", "br\x1b[2J"
    fake_host.net(name, fake_host.pci(DEVICE, "8086:1521", 0x020000, driver="igb", group=12))
    assert r"e\x1b[31mx unused" in fake_host.run("show", DEVICE).out
    fake_host.interfaces[name] = InterfaceUse(name, link=True, routes=("default",), master=bridge)
    assert r"e\x1b[31mx has an established link in br\x1b[2J" in refusal(fake_host)
    assert r"e\x1b[31mx (default route)" in fake_host.run("list", "-w").out
    assert "\x1b" not in fake_host.run("show", DEVICE).said


def vfio_device(host: FakeHost) -> str:
    return host.pci(DEVICE, "8086:1521", 0x020000, driver="vfio-pci", group=12)


def test_who_has_the_group_open_is_named(fake_host: FakeHost) -> None:
    vfio_device(fake_host)
    fake_host.process(4242, "qemu-system-x86", "/dev/vfio/12")
    said = refusal(fake_host, command="unbind")
    assert "qemu-system-x86 (pid 4242) has /dev/vfio/12 open, and unbinding waits until it closes it" in said


def test_who_has_let_go_of_the_node_is_found_all_the_same(fake_host: FakeHost) -> None:
    """A program may close the group and go on with the device."""
    vfio_device(fake_host)
    fake_host.errors["/dev/vfio/12"] = errno.EBUSY
    assert "a program has group 12 open, and unbinding waits" in refusal(fake_host, command="unbind")


def test_the_user_of_a_devices_own_node_is_seen(fake_host: FakeHost) -> None:
    """Also where the kernel has no groups to ask (CONFIG_VFIO_GROUP=n)."""
    place = vfio_device(fake_host)
    fake_host.at("/dev/vfio/12").unlink()
    fake_host.file(f"{place}/vfio-dev/vfio0/dev", "511:0\n")
    fake_host.process(4242, "qemu-system-x86", "/dev/vfio/devices/vfio0")
    assert "qemu-system-x86 (pid 4242) has /dev/vfio/devices/vfio0 open" in refusal(fake_host, command="unbind")


def test_a_device_without_a_driver_serves_nobody(fake_host: FakeHost) -> None:
    ssd(fake_host)
    fake_host.take(DEVICE)
    fake_host.exclusive.add("/dev/nvme0n1")
    assert refusal(fake_host) == ""


def test_the_running_kernels_loopback() -> None:
    use = LinuxNetwork().use("lo")
    assert use.link
    assert "127.0.0.1/8" in use.addresses
    assert LinuxNetwork().use("no-such-if").reasons == []
