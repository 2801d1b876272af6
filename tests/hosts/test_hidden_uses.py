"""What the host needs of a device though no mount, no holder and no open node names it."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from tests.support.guarded import DEVICE, mounts, refusal, ssd
from tests.support.hosts import FakeHost

UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
DATA = "259:3 / /data rw - ext4 /dev/nvme0n1p3 rw"


def virtio_9p(host: FakeHost) -> None:
    place = host.pci(DEVICE, "1af4:1009", 0x000200, driver="virtio-pci", group=5)
    # The kernel writes the tag with the zero byte at its end.
    host.file(f"{host.virtio('virtio0', place, '9pnet_virtio')}/mount_tag", "hostroot\0")


def a_9p_root(host: FakeHost) -> None:
    virtio_9p(host)
    host.file("/proc/self/mountinfo", mounts("0:22 / / rw - 9p hostroot rw,trans=virtio"))


def a_9p_file_system_in_a_container(host: FakeHost) -> None:
    virtio_9p(host)
    host.process(77, "postgres", mounts=mounts("0:22 / /data rw - 9p hostroot rw,trans=virtio"))


def a_9p_file_system_below_an_overlay(host: FakeHost) -> None:
    virtio_9p(host)
    host.file("/sys/module/9p/refcnt", "1\n")
    host.file("/proc/self/mountinfo", mounts("0:28 / / rw - overlay overlay rw,lowerdir=/mnt/host"))


def a_9p_file_system_that_is_not_mounted(host: FakeHost) -> None:
    virtio_9p(host)
    host.file("/sys/module/9p/refcnt", "0\n")


def virtiofs(host: FakeHost) -> str:
    place = host.pci(DEVICE, "1af4:105a", 0x018000, driver="virtio-pci", group=5)
    host.file("/proc/self/mountinfo", mounts("0:30 / /srv rw - virtiofs myfs rw"))
    return host.virtio("virtio3", place, "virtiofs")


def a_virtiofs_of_this_device(host: FakeHost) -> None:
    host.file("/sys/fs/virtiofs/2/tag", "myfs\n")
    host.link("/sys/fs/virtiofs/2/device", virtiofs(host))


def a_virtiofs_before_its_tag_was_to_be_had(host: FakeHost) -> None:
    virtiofs(host)


def memory_by_virtio(host: FakeHost) -> None:
    place = host.pci(DEVICE, "1af4:1058", 0x00FF00, driver="virtio-pci", group=5)
    host.virtio("virtio4", place, "virtio_mem")
    host.file("/proc/iomem", "00000000-00000000 : virtio4\n  00000000-00000000 : System RAM (virtio_mem)\n")


def an_iommu(host: FakeHost) -> None:
    place = host.pci(DEVICE, "1af4:1057", 0x080600, driver="virtio-pci")
    host.link(f"/sys/class/iommu/{DEVICE}", f"{host.virtio('virtio0', place, 'virtio_iommu')}/iommu/{DEVICE}")


def a_console_by_virtio(host: FakeHost) -> None:
    place = host.pci(DEVICE, "1af4:1003", 0x078000, driver="virtio-pci", group=5)
    host.virtio("virtio2", place, "virtio_console")
    host.file("/sys/class/tty/console/active", "ttyS0 hvc0\n")


def ports_by_virtio_beside_another_console(host: FakeHost) -> None:
    a_console_by_virtio(host)
    host.file("/sys/class/tty/console/active", "ttyS0\n")


def boot_display_without_a_driver(host: FakeHost) -> None:
    """Nouveau may be on a block list, while the console goes on by the firmware's framebuffer."""
    host.pci(DEVICE, "10de:1b06", 0x030000, group=15, boot_vga="1")
    host.node("graphics", "fb0", "/sys/devices/platform/efi-framebuffer.0", "fb0")


def boot_framebuffer_of_another_display(host: FakeHost) -> None:
    host.pci(DEVICE, "10de:1b06", 0x030000, group=15, boot_vga="0", resource="0xe0000000 0xefffffff 0x140200")
    host.file("/proc/iomem", f"e0000000-efffffff : {DEVICE}\n  e0000000-e07effff : BOOTFB\n")


def second_display_without_a_driver(host: FakeHost) -> None:
    host.pci(DEVICE, "10de:1b06", 0x030000, group=15, boot_vga="0", resource="0xe0000000 0xefffffff 0x140200")
    host.file("/proc/iomem", f"e0000000-efffffff : {DEVICE}\nf0000000-f07effff : BOOTFB\n")


def mediated(host: FakeHost, driver: str = "i915") -> None:
    """The group of a mediated device is named as one without an IOMMU is, and its node is not."""
    place = host.pci(DEVICE, "8086:591b", 0x038000, driver=driver, group=1)
    host.link(f"/sys/bus/mdev/devices/{UUID}", f"{place}/{UUID}")
    host.file(f"{place}/{UUID}/vfio-dev/vfio1/dev", "511:1\n")
    host.link(f"{place}/{UUID}/iommu_group", "/sys/kernel/iommu_groups/9")
    host.link(f"/sys/kernel/iommu_groups/9/devices/{UUID}", f"{place}/{UUID}")
    host.file("/sys/kernel/iommu_groups/9/name", "vfio-noiommu\n")
    host.file("/dev/vfio/9", "")
    host.process(1, "systemd", "/dev/null")


def mediated_in_a_guest(host: FakeHost) -> None:
    mediated(host)
    host.process(4242, "qemu-system-x86", "/dev/vfio/9")


def mediated_in_a_guest_by_its_own_node(host: FakeHost) -> None:
    mediated(host)
    host.process(4242, "qemu-system-x86", "/dev/vfio/devices/vfio1")


def mediated_in_a_guest_below_a_vfio_driver(host: FakeHost) -> None:
    mediated(host, "nvgrace-vfio")
    host.process(4242, "qemu-system-x86", "/dev/vfio/9")


def a_network_card_on_usb(host: FakeHost) -> None:
    place = host.pci(DEVICE, "8086:a36d", 0x0C0330, driver="xhci_hcd", group=4)
    host.link("/sys/bus/usb/devices/1-3:1.0", f"{place}/usb1/1-3/1-3:1.0")
    host.at(f"{place}/usb1/1-3/1-3:1.0/net").mkdir(parents=True)


def a_sub_function(host: FakeHost) -> None:
    place = host.pci(DEVICE, "15b3:1019", 0x020000, driver="mlx5_core", group=5)
    host.link("/sys/bus/auxiliary/devices/mlx5_core.sf.2", f"{place}/mlx5_core.sf.2")
    host.at(f"{place}/mlx5_core.sf.2/net").mkdir(parents=True)


def interface_of_a_virtual_function(host: FakeHost) -> None:
    place = host.pci(DEVICE, "8086:1521", 0x020000, driver="igb", group=5)
    virtual = host.pci("0000:03:10.0", "8086:1520", 0x020000, driver="igbvf", group=6)
    host.link(f"{place}/virtfn0", virtual)
    host.at(f"{virtual}/net").mkdir()


def interface_that_is_here(host: FakeHost) -> None:
    place = host.pci(DEVICE, "15b3:1019", 0x020000, driver="mlx5_core", group=5)
    host.link("/sys/bus/auxiliary/devices/mlx5_core.sf.2", f"{place}/mlx5_core.sf.2")
    host.net("eth5", f"{place}/mlx5_core.sf.2")


def disk_without_a_node(host: FakeHost) -> None:
    """In a container."""
    ssd(host)
    host.errors |= {"/dev/nvme0n1": errno.ENOENT, "/dev/nvme0n1p3": errno.ENOENT}


def disk_that_may_not_be_opened(host: FakeHost) -> None:
    """By a user who is not root, or in a container by its list of devices."""
    ssd(host)
    host.errors |= {"/dev/nvme0n1": errno.EACCES, "/dev/nvme0n1p3": errno.EPERM}


def disk_whose_node_is_a_file(host: FakeHost) -> None:
    """That `dd of=` has made after the disk was gone once."""
    ssd(host)
    host.images |= {"/dev/nvme0n1", "/dev/nvme0n1p3"}


def disk_that_is_mounted_elsewhere(host: FakeHost) -> None:
    disk_without_a_node(host)
    host.process(77, "postgres", mounts=mounts(DATA))


def drive_without_a_medium(host: FakeHost) -> None:
    ssd(host)
    host.errors |= {"/dev/nvme0n1": errno.ENOMEDIUM, "/dev/nvme0n1p3": errno.ENXIO}


def kernel_without_swap(host: FakeHost) -> None:
    ssd(host)
    host.at("/proc/swaps").unlink()


def image_of_a_disk(host: FakeHost) -> None:
    """A file that has a node's name."""
    ssd(host)
    host.images.add("/home/me/images/nvme0n1")
    host.process(55, "vim", "/home/me/images/nvme0n1")


def nvme_target(host: FakeHost, *, enabled: bool = True, path: str = "/dev/disk/by-id/nvme-x") -> None:
    ssd(host)
    host.link("/dev/disk/by-id/nvme-x", "/dev/nvme0n1")
    namespace = "/sys/kernel/config/nvmet/subsystems/nqn.2026-01.org.example:a/namespaces/1"
    host.file(f"{namespace}/device_path", f"{path}\n")
    host.file(f"{namespace}/enable", f"{enabled:d}\n")


def nvme_target_that_is_off(host: FakeHost) -> None:
    nvme_target(host, enabled=False)


def nvme_target_on_another_disk(host: FakeHost) -> None:
    nvme_target(host, path="/dev/nvme7n1")


def nvme_target_that_passes_through(host: FakeHost) -> None:
    host.node("nvme", "nvme0", ssd(host), "nvme0")
    host.file("/dev/nvme0", "")
    passthru = "/sys/kernel/config/nvmet/subsystems/nqn.2026-01.org.example:a/passthru"
    host.file(f"{passthru}/device_path", "/dev/nvme0\n")
    host.file(f"{passthru}/enable", "1\n")


def loop_device(host: FakeHost) -> None:
    """It does not claim what it is on."""
    ssd(host)
    host.disk("loop0", "/sys/devices/virtual/block", "7:0")
    host.file("/sys/devices/virtual/block/loop0/loop/backing_file", "/dev/nvme0n1p3\n")
    host.disk("loop0p1", "/sys/devices/virtual/block/loop0", "259:8")
    host.file("/proc/self/mountinfo", mounts("259:8 / /mnt rw - ext4 /dev/loop0p1 rw"))


def loop_device_on_a_file(host: FakeHost) -> None:
    loop_device(host)
    host.file("/sys/devices/virtual/block/loop0/loop/backing_file", "/srv/nvme0n1p3\n")


def fibre_channel(host: FakeHost, port: str = "0x10000090fae0b5f5") -> None:
    """NVMe over it: the controller, its disks and their partitions are below no function."""
    place = host.pci(DEVICE, "10df:e300", 0x0C0400, driver="lpfc", group=5)
    host.file(f"{place}/host3/fc_host/host3/port_name", "0x10000090fae0b5f5\n")
    host.link("/sys/class/fc_host/host3", f"{place}/host3/fc_host/host3")
    controller = "/sys/devices/virtual/nvme-fabrics/ctl/nvme0"
    host.file(
        f"{controller}/address",
        f"traddr=nn-0x200000109b1b:pn-0x100000109b1b,host_traddr=nn-0x20000090fae0b5f5:pn-{port}\n",
    )
    host.link("/sys/class/nvme/nvme0", controller)
    host.disk("nvme0n1", controller, "259:0")
    host.disk("nvme0n1p3", f"{controller}/nvme0n1", "259:3")
    host.file("/proc/self/mountinfo", mounts("259:3 / / rw - ext4 /dev/nvme0n1p3 rw"))


def fibre_channel_of_another(host: FakeHost) -> None:
    fibre_channel(host, "0x10000090fae0b5f6")


def fibre_channel_with_multipath(host: FakeHost) -> None:
    """The disk is the head, and the controller has a path to it."""
    fibre_channel(host)
    host.disk("nvme0c0n1", "/sys/devices/virtual/nvme-fabrics/ctl/nvme0", "259:9")
    host.disk("nvme0n1", "/sys/devices/virtual/nvme-subsystem/nvme-subsys0", "259:0")
    host.disk("nvme0n1p3", "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "259:3")


NOT_ASKED = "nvme0n1 may be in use: whether anybody holds it could not be asked"
DISTANT = "is in another network namespace"


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (a_9p_root, "the 9p file system on it is mounted on /. "),
        (a_9p_file_system_in_a_container, "on it is mounted on /data in the mount namespace of postgres (pid 77)"),
        (a_9p_file_system_below_an_overlay, "its 9p file system hostroot may be in use: no list of mounts shows one"),
        (a_9p_file_system_that_is_not_mounted, ""),
        (a_virtiofs_of_this_device, "the virtiofs file system on it is mounted on /srv"),
        (a_virtiofs_before_its_tag_was_to_be_had, "the virtiofs file system perhaps on it is mounted on /srv"),
        (memory_by_virtio, "memory of this host is plugged by a virtio-mem device, perhaps by this one"),
        (a_console_by_virtio, "hvc0 is a console of the kernel, and may be on it"),
        (ports_by_virtio_beside_another_console, ""),
        (boot_display_without_a_driver, "it is the display that the machine booted with, where the console is"),
        (boot_framebuffer_of_another_display, "BOOTFB, the framebuffer of the boot, is in its memory"),
        (second_display_without_a_driver, ""),
        (mediated, ""),
        (
            mediated_in_a_guest,
            f"its mediated device {UUID}: qemu-system-x86 (pid 4242) has /dev/vfio/9 open, and unbind",
        ),
        (mediated_in_a_guest_by_its_own_node, "qemu-system-x86 (pid 4242) has /dev/vfio/devices/vfio1 open"),
        (mediated_in_a_guest_below_a_vfio_driver, f"its mediated device {UUID}: qemu-system-x86 (pid 4242) has"),
        (a_network_card_on_usb, f"its network interface {DISTANT}"),
        (a_sub_function, f"its network interface {DISTANT}"),
        (interface_of_a_virtual_function, f"the interface of 0000:03:10.0 {DISTANT}"),
        (interface_that_is_here, ""),
        (disk_without_a_node, f"{NOT_ASKED} (No such file or directory)"),
        (disk_that_may_not_be_opened, f"{NOT_ASKED} (Permission denied)"),
        (disk_whose_node_is_a_file, f"{NOT_ASKED} (/dev/nvme0n1 is something else)"),
        (disk_that_is_mounted_elsewhere, "nvme0n1p3 is mounted on /data in the mount namespace of postgres (pid 77)"),
        (drive_without_a_medium, ""),
        (kernel_without_swap, ""),
        (image_of_a_disk, ""),
        (nvme_target, "the NVMe target nqn.2026-01.org.example:a offers /dev/nvme0n1 to other hosts"),
        (nvme_target_that_is_off, ""),
        (nvme_target_on_another_disk, ""),
        (nvme_target_that_passes_through, "offers /dev/nvme0 to other hosts"),
        (loop_device, "nvme0n1p3 is behind loop0, which is mounted on /mnt"),
        (loop_device_on_a_file, ""),
        (fibre_channel, "nvme0n1p3 is mounted on /. "),
        (fibre_channel_with_multipath, "nvme0n1p3 is mounted on /. "),
        (fibre_channel_of_another, ""),
    ],
)
def test_uses_that_nothing_names(fake_host: FakeHost, layout: Callable[[FakeHost], None], sentence: str) -> None:
    layout(fake_host)
    said = refusal(fake_host)
    assert sentence in said
    assert bool(said) == bool(sentence)
    assert said.count(DEVICE) == bool(sentence), "one use is one reason"


def test_an_iommu_stays_with_the_host(fake_host: FakeHost) -> None:
    an_iommu(fake_host)
    assert f"{DEVICE} is an IOMMU of the host" in fake_host.run("unbind", "--dry-run", DEVICE).err


def test_a_boot_display_without_a_driver_may_have_its_own_again(fake_host: FakeHost) -> None:
    """Unbinding takes nothing from the host where there is no driver."""
    boot_display_without_a_driver(fake_host)
    assert fake_host.run("unbind", "--dry-run", DEVICE).status == 0


def test_a_mediated_device_has_an_iommu(fake_host: FakeHost) -> None:
    mediated(fake_host)
    assert "noiommu" not in fake_host.run("doctor").out
