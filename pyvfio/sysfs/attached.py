"""What belongs to a PCI function on the host: network interfaces, disks, nodes, its VFIO character device."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyvfio.kernel import Kernel, exists, link_name, link_number, names_in, text_or_empty
from pyvfio.sysfs.pci import DEVICES, MEDIATED_DEVICES

_VIRTIO_DEVICES = "/sys/bus/virtio/devices"
_NVME = "/sys/class/nvme"
_BLOCK = "/sys/class/block"
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass(frozen=True, slots=True)
class MediatedDevice:
    """A device that a driver makes of a part of another.

    name: its UUID. group: the number of its IOMMU group; None if it has none. node: its own VFIO node; None for none.
    """

    name: str
    group: int | None
    node: str | None


@dataclass(frozen=True, slots=True)
class VirtioDevice:
    """A virtio device that a driver such as virtio-pci has made of a function.

    name: "virtio1". driver: the driver that it is bound to; None for none.
    """

    name: str
    driver: str | None

    @property
    def place(self) -> str:
        """Its directory in sysfs."""
        return f"{_VIRTIO_DEVICES}/{self.name}"


def interfaces(kernel: Kernel, address: str, *, dependent: bool = False) -> list[str]:
    """The names of the network interfaces of a function, sorted.

    dependent: also the interfaces of its virtual functions and of the devices behind it, which go with its driver.
    """
    return of_class(kernel, "net", address, dependent=dependent)


def block_devices(kernel: Kernel, address: str, *, dependent: bool = False) -> list[str]:
    """The names of the disks and partitions of a function, sorted. dependent: as for interfaces().

    Those of NVMe over Fibre Channel are below no function: they are their host bus adapter's, by the name of its port.
    """
    found = of_class(kernel, "block", address, dependent=dependent)
    hosts = of_class(kernel, "fc_host", address, dependent=dependent)
    ports = {text_or_empty(kernel, f"/sys/class/fc_host/{host}/port_name") for host in hosts}
    for controller in names_in(kernel, _NVME) if ports else ():
        # "traddr=nn-0x...:pn-0x...,host_traddr=nn-0x...:pn-0x..."
        words = text_or_empty(kernel, f"{_NVME}/{controller}/address").split("host_traddr=")
        if words[-1].partition(",")[0].rpartition(":pn-")[2] in ports:
            found += [name for name in names_in(kernel, _BLOCK) if controller in _way(kernel, f"{_BLOCK}/{name}")]
    return sorted(found)


def device_nodes(kernel: Kernel, address: str, *, dependent: bool = False) -> list[str]:
    """The nodes that drivers have made for a function, "/dev/dri/card0", sorted. dependent: as for interfaces()."""
    nodes = [f"/dev/nvidia{minor}" for minor in _nvidia_minors(kernel, address)]
    for name in names_in(kernel, "/sys/class"):
        for entry in of_class(kernel, name, address, dependent=dependent):
            nodes += _node(kernel, f"/sys/class/{name}/{entry}")
    usb = "/sys/bus/usb/devices"
    for entry in _below(kernel, usb, address, dependent=dependent):
        nodes += _node(kernel, f"{usb}/{entry}")
    return sorted(set(nodes))


def virtual_functions(kernel: Kernel, address: str) -> list[str]:
    """The addresses of the virtual functions of a physical function, sorted. They go with its driver."""
    directory = f"{DEVICES}/{address}"
    links = [name for name in names_in(kernel, directory) if name.startswith("virtfn")]
    return sorted(filter(None, (link_name(kernel, f"{directory}/{name}") for name in links)))


def character_device(kernel: Kernel, address: str) -> str | None:
    """The function's own VFIO node, "/dev/vfio/devices/vfio0".

    None if no VFIO driver has the function, or if the kernel makes no such nodes.
    """
    return _vfio_node(kernel, f"{DEVICES}/{address}")


def mediated_devices(kernel: Kernel, address: str) -> list[MediatedDevice]:
    """The mediated devices of a function and of its virtual functions, by name. They go with its driver."""
    devices = []
    for name in _below(kernel, MEDIATED_DEVICES, address, dependent=True):
        place = f"{MEDIATED_DEVICES}/{name}"
        group = link_number(kernel, f"{place}/iommu_group")
        devices.append(MediatedDevice(name, group, _vfio_node(kernel, place)))
    return devices


def virtio_devices(kernel: Kernel, address: str) -> list[VirtioDevice]:
    """The virtio devices that drivers have made of a function and of those that go with its driver, by name."""
    names = _below(kernel, _VIRTIO_DEVICES, address, dependent=True)
    return [VirtioDevice(name, link_name(kernel, f"{_VIRTIO_DEVICES}/{name}/driver")) for name in names]


def functions_with_distant_interfaces(kernel: Kernel, address: str) -> list[str]:
    """Which functions have a network interface in another network namespace, sorted.

    The function itself, its virtual functions and the devices behind it are looked at, and what drivers have made of
    them: virtio and auxiliary devices, those on a USB bus. Of two interfaces in one directory both have to be away.
    """
    functions = set()
    for bus in names_in(kernel, "/sys/bus"):
        devices = f"/sys/bus/{bus}/devices"
        for name in _below(kernel, devices, address, dependent=True):
            # Every network namespace shows the directory; only the interface's own shows the interface in it.
            if "net" in names_in(kernel, f"{devices}/{name}") and not names_in(kernel, f"{devices}/{name}/net"):
                functions.update(_functions_above(kernel, f"{devices}/{name}")[-1:])
    return sorted(functions)


def behind(kernel: Kernel, path: str) -> str | None:
    """The address of the PCI function that a device is made of; None if there is none. path: its link in a class.

    A device on a bus behind the function, as behind a USB controller, is not made of the function.
    """
    parts = _way(kernel, path)
    places = [number for number, part in enumerate(parts) if _PCI_ADDRESS.fullmatch(part)]
    if not places or any(part.startswith("usb") for part in parts[places[-1] :]):
        return None
    return parts[places[-1]]


def of_class(kernel: Kernel, name: str, address: str, *, dependent: bool = False) -> list[str]:
    """The entries of /sys/class/NAME that belong to a function, sorted. dependent: as for interfaces()."""
    return _below(kernel, f"/sys/class/{name}", address, dependent=dependent)


def _below(kernel: Kernel, directory: str, address: str, *, dependent: bool) -> list[str]:
    """The links in a directory that lead to what is below a function, sorted. dependent: as for interfaces()."""
    addresses = {address, *(virtual_functions(kernel, address) if dependent else ())}
    found = []
    for entry in names_in(kernel, directory):
        functions = _functions_above(kernel, f"{directory}/{entry}")
        if addresses.intersection(functions if dependent else functions[-1:]):
            found.append(entry)
    return found


def _functions_above(kernel: Kernel, path: str) -> list[str]:
    """The addresses of the PCI functions on the way that a link leads, a bridge's before those behind it."""
    return [part for part in _way(kernel, path) if _PCI_ADDRESS.fullmatch(part)]


def _way(kernel: Kernel, path: str) -> list[str]:
    """The names on the way that a link leads; none for what is no link."""
    try:
        return kernel.readlink(path).split("/")
    except OSError:  # a file such as bonding_masters, or a link that has just gone
        return []


def _vfio_node(kernel: Kernel, device: str) -> str | None:
    """The VFIO node of a device itself; None if it has none. device: its directory in sysfs."""
    directory = f"{device}/vfio-dev"
    for name in names_in(kernel, directory):
        # Kernels without CONFIG_VFIO_DEVICE_CDEV have the device in sysfs, but no node for it.
        if exists(kernel, f"{directory}/{name}/dev"):
            return f"/dev/vfio/devices/{name}"
    return None


def _node(kernel: Kernel, device: str) -> list[str]:
    """The path of a device's node, in a list that is empty if it has none. device: its directory in sysfs."""
    for line in text_or_empty(kernel, f"{device}/uevent").split("\n"):
        if line.startswith("DEVNAME="):
            return [f"/dev/{line.removeprefix('DEVNAME=')}"]
    return []


def _nvidia_minors(kernel: Kernel, address: str) -> list[str]:
    """The minor numbers of the nodes of NVIDIA's driver, which sysfs does not show: procfs says which is whose."""
    text = text_or_empty(kernel, f"/proc/driver/nvidia/gpus/{address}/information")
    return re.findall(r"^Device Minor:[ \t]*([0-9]+)$", text, re.MULTILINE)
