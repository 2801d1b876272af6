"""What belongs to a PCI function on the host: network interfaces, disks, nodes, its VFIO character device."""

from __future__ import annotations

import re

from pyvfio.kernel import Kernel, exists, link_name, names_in, text_or_empty
from pyvfio.sysfs.pci import DEVICES

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def interfaces(kernel: Kernel, address: str, *, dependent: bool = False) -> list[str]:
    """The names of the network interfaces of a function, sorted.

    dependent: also the interfaces of its virtual functions and of the devices behind it, which go with its driver.
    """
    return of_class(kernel, "net", address, dependent=dependent)


def block_devices(kernel: Kernel, address: str, *, dependent: bool = False) -> list[str]:
    """The names of the disks and partitions of a function, sorted. dependent: as for interfaces()."""
    return of_class(kernel, "block", address, dependent=dependent)


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
    directory = f"{DEVICES}/{address}/vfio-dev"
    for name in names_in(kernel, directory):
        # Kernels without CONFIG_VFIO_DEVICE_CDEV have the device in sysfs, but no node for it.
        if exists(kernel, f"{directory}/{name}/dev"):
            return f"/dev/vfio/devices/{name}"
    return None


def behind(kernel: Kernel, path: str) -> str | None:
    """The address of the PCI function that a device is made of; None if there is none. path: its link in a class.

    A device on a bus behind the function, as behind a USB controller, is not made of the function.
    """
    try:
        parts = kernel.readlink(path).split("/")
    except OSError:
        return None
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
        try:
            path = kernel.readlink(f"{directory}/{entry}")
        except OSError:  # a file such as bonding_masters, or one that has just gone
            continue
        functions = [part for part in path.split("/") if _PCI_ADDRESS.fullmatch(part)]
        if addresses.intersection(functions if dependent else functions[-1:]):
            found.append(entry)
    return found


def _node(kernel: Kernel, device: str) -> list[str]:
    """The path of a device's node, in a list that is empty if it has none. device: its directory in sysfs."""
    for line in text_or_empty(kernel, f"{device}/uevent").split("\n"):
        if line.startswith("DEVNAME="):
            return [f"/dev/{line.removeprefix('DEVNAME=')}"]
    return []


def _nvidia_minors(kernel: Kernel, address: str) -> list[str]:
    """The minor numbers of the nodes of NVIDIA's driver, which sysfs does not show: procfs says which is whose."""
    text = text_or_empty(kernel, f"/proc/driver/nvidia/gpus/{address}/information")
    return re.findall(r"^Device Minor:\s*(\d+)$", text, re.MULTILINE)
