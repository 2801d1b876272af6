"""What sysfs and procfs say."""

from __future__ import annotations

from pyvfio import VfioError
from pyvfio.device import ConfigSpace
from pyvfio.host import Uevent
from pyvfio.host.addresses import device_addresses
from pyvfio.host.binding import binding
from pyvfio.host.doctor.boot import ends_acpi, ends_remapping, parse, switched, vendor
from pyvfio.host.doctor.build import Build
from pyvfio.host.doctor.surroundings import is_container
from pyvfio.host.guard.console import console_uses
from pyvfio.host.guard.disks import DiskUses
from pyvfio.host.inspect.config_image import ConfigImage, resources
from pyvfio.host.inspect.decode import capabilities, header, in_words
from pyvfio.kernel import (
    dma_entry_limit,
    host_memory,
    huge_pages,
    linux_release,
    memlock,
    transparent_huge_page_size,
)
from pyvfio.reserved import bar_holders
from pyvfio.sysfs import PciDevice, direct_regions, mediated_devices, pci_device
from tests.fuzz.host_files import FilesKernel, parts_of
from tests.fuzz.parser import Parser

_ADDRESS = "0000:03:00.0"
_DEVICE = f"/sys/bus/pci/devices/{_ADDRESS}"
_POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"
_GROUP = "/sys/kernel/iommu_groups/12"


def _pci_device(data: bytes) -> None:
    names = ("vendor", "device", "class", "numa_node", "driver_override", "config")
    files = parts_of(data, *(f"{_DEVICE}/{name}" for name in names), "group", "driver")
    links = {f"{_DEVICE}/iommu_group": files.pop("group", b"x"), f"{_DEVICE}/driver": files.pop("driver", b"x")}
    binding(FilesKernel(files, links), _ADDRESS)
    pci_device(FilesKernel(files, links), _ADDRESS)


def _memlock(data: bytes) -> None:
    kernel = FilesKernel(parts_of(data, "/proc/self/status", "/proc/self/limits"))
    memlock(kernel)


def _huge_pages(data: bytes) -> None:
    names = ("nr_hugepages", "free_hugepages", "resv_hugepages", "nr_overcommit_hugepages", "surplus_hugepages")
    node = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB"
    more = ("/proc/self/status", f"{node}/nr_hugepages", f"{node}/free_hugepages", "/proc/self/cgroup")
    groups = [f"/sys/fs/cgroup/jobs/hugetlb.2MB.{name}" for name in ("max", "current")]
    thp = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"
    limit = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
    files = parts_of(data, *(f"{_POOL}/{name}" for name in names), *more, *groups, thp, limit)
    kernel = FilesKernel({**files, "/sys/devices/system/node/node0/x": b""})
    for node_number in (None, 1):
        huge_pages(2 << 20, kernel, node=node_number)
    transparent_huge_page_size(kernel)
    dma_entry_limit(kernel)


def _host_memory(data: bytes) -> None:
    cgroup = "/sys/fs/cgroup/jobs/memory."
    names = ("max", "high", "current", "stat")
    node = "/sys/devices/system/node/node1/meminfo"
    files = parts_of(
        data, "/proc/self/cgroup", "/proc/meminfo", "/proc/self/status", *(f"{cgroup}{name}" for name in names), node
    )
    kernel = FilesKernel({**files, "/sys/devices/system/node/node0/x": b""})
    for node_number in (None, 1):
        host_memory(kernel, node=node_number)


def _mounts(data: bytes) -> None:
    names = ("/proc/self/mountinfo", "/proc/swaps", "/proc/7/mountinfo", "/proc/7/comm")
    files = {"/proc/self/mountinfo": b"", **parts_of(data, *names)}
    links = {"/proc/self/ns/mnt": b"mnt:[1]", "/proc/7/ns/mnt": b"mnt:[2]"}
    kernel = FilesKernel({**files, "/sys/class/block/sda/dev": b"8:0\n", "/dev/sda": b""}, links)
    DiskUses(kernel).of("sda")
    is_container(kernel)


def _console(data: bytes) -> None:
    names = ("/proc/bus/input/devices", "/sys/class/tty/console/active", f"{_DEVICE}/resource", "/proc/iomem")
    kernel = FilesKernel(parts_of(data, *names, f"{_DEVICE}/boot_vga"))
    for class_code in (0x030000, 0x0C0330):
        list(console_uses(kernel, PciDevice(_ADDRESS, 1, 2, class_code, None, None, None)))
    for index in range(7):
        bar_holders(kernel, _ADDRESS, index)
    list(resources(kernel, _ADDRESS))


def _regions(data: bytes) -> None:
    unit = "/sys/class/iommu/dmar0/intel-iommu/cap"
    files = parts_of(data, f"{_GROUP}/reserved_regions", unit, "/proc/sys/kernel/osrelease")
    ids = {f"{_DEVICE}/{name}": b"0x1\n" for name in ("vendor", "device", "class")}
    links = {f"{_DEVICE}/iommu_group": b"../12", f"{_GROUP}/devices/{_ADDRESS}": b"x"}
    kernel = FilesKernel({**files, **ids}, links)
    linux_release(kernel)
    direct_regions(kernel, 12)
    addresses = device_addresses(kernel, [_ADDRESS])
    assert addresses is not None
    addresses.fitting(1 << 30, 1 << 32, 1 << 21)
    addresses.largest(1 << 32, 1 << 21)


def _mediated(data: bytes) -> None:
    place = "/sys/bus/mdev/devices/u"
    links = parts_of(data, place, f"{place}/iommu_group")
    mediated_devices(FilesKernel({}, links), _ADDRESS)


def _boot(data: bytes) -> None:
    cpu, text, release, config = [*data.split(b"\0"), b"", b"", b"", b""][:4]
    arguments = list(parse(text.decode(errors="replace")))
    ends_acpi(arguments)
    ends_remapping(arguments)
    places = {"/proc/sys/kernel/osrelease": release, "/proc/config.gz": config, "/boot/config-6.12": config}
    kernel = FilesKernel({"/proc/cpuinfo": cpu, **places})
    if (found := vendor(kernel)) is not None:
        switched(arguments, found)
    Build(kernel).module("vfio", "CONFIG_VFIO")


def _config_space(data: bytes) -> None:
    config = ConfigSpace(ConfigImage(_ADDRESS, data))
    list(header(config))
    for capability in capabilities(config):
        in_words(capability)


PROCFS = (
    Parser("pci-device", _pci_device, (VfioError,), (b"0x8086\n", b"(null)\n", b"../12", b"\0")),
    Parser("memlock", _memlock, (VfioError, FileNotFoundError), (b"VmLck:", b"Max locked memory", b"unlimited")),
    Parser("huge-pages", _huge_pages, (VfioError, FileNotFoundError), (b"0::/jobs\n", b"max\n", b"\0")),
    Parser("host-memory", _host_memory, (), (b"0::/../jobs\n", b"max\n", b"Mems_allowed_list:\t0-4294967295\n")),
    Parser("mounts", _mounts, (), (b" - ", b"8:0", b"\\040", b"bcachefs", b"/dev/sda")),
    Parser("console", _console, (), (b'N: Name="', b"S: Sysfs=", b"H: Handlers=kbd", b"0x", b" : ")),
    Parser("reserved-regions", _regions, (), (b"direct", b"msi", b"0xffffffffffffffff")),
    Parser("mediated-devices", _mediated, (), (b"/0000:03:00.0/", b"..")),
    Parser("uevent", lambda data: Uevent.parse(data).name, (), (b"ACTION=", b"DEVPATH=", b"@", b"\0")),
    Parser("boot", _boot, (), (b'"', b"intel_iommu=off", b"CONFIG_VFIO=m\n", b"\x1f\x8b\x08")),
    Parser("config-space", _config_space, (VfioError,), (b"\x10\x00", b"\x40", b"\xff\xff\xff\xff")),
)
