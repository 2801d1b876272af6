"""What belongs to a PCI function on the host: network interfaces, disks, its VFIO character device."""

from __future__ import annotations

import re

from pyvfio.kernel import Kernel, exists, link_name, names_in
from pyvfio.sysfs.pci import DEVICES

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def interfaces(kernel: Kernel, address: str, *, dependent: bool = False) -> list[str]:
    """The names of the network interfaces of a function, sorted.

    dependent: also the interfaces of its virtual functions and of the devices behind it, which go with its driver.
    """
    return _of_class(kernel, "net", address, dependent)


def block_devices(kernel: Kernel, address: str, *, dependent: bool = False) -> list[str]:
    """The names of the disks and partitions of a function, sorted. dependent: as for interfaces()."""
    return _of_class(kernel, "block", address, dependent)


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


def _of_class(kernel: Kernel, name: str, address: str, dependent: bool) -> list[str]:
    """The entries of /sys/class/NAME that belong to a function. dependent: as for interfaces()."""
    addresses = {address, *(virtual_functions(kernel, address) if dependent else ())}
    found = []
    for entry in names_in(kernel, f"/sys/class/{name}"):
        try:
            path = kernel.readlink(f"/sys/class/{name}/{entry}")
        except OSError:  # a file such as bonding_masters, or one that has just gone
            continue
        functions = [part for part in path.split("/") if _PCI_ADDRESS.fullmatch(part)]
        if addresses.intersection(functions if dependent else functions[-1:]):
            found.append(entry)
    return found
