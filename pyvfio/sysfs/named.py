"""PCI functions as people name them: by address, or by the network interface that a driver has made of one."""

from __future__ import annotations

import errno

from pyvfio.errors import DeviceNotBound, InvalidArgument
from pyvfio.kernel import Kernel, names_in
from pyvfio.sysfs.attached import behind
from pyvfio.sysfs.pci import PciDevice, is_address, pci_device
from pyvfio.texts import shortened

_NET = "/sys/class/net"


def named_device(kernel: Kernel, name: str) -> PciDevice:
    """The function at an address (0000:03:00.0, 03:00.0) or with a network interface of this name (eth1).

    Raises InvalidArgument for a name that is neither, DeviceNotBound if there is no such function, or if the interface
    is not made of one.
    """
    return pci_device(kernel, named_address(kernel, name))


def named_address(kernel: Kernel, name: str) -> str:
    """The address of the function that a name means, as for named_device(). An address is returned as it is.

    Raises InvalidArgument, DeviceNotBound.
    """
    if is_address(name):
        return name
    if name not in names_in(kernel, _NET):
        raise InvalidArgument(
            errno.EINVAL,
            f"PCI device {shortened(name)}",
            meaning="it is no PCI address, and there is no network interface of that name here",
            advice="Write 0000:03:00.0, 03:00.0 or eth1; pyvfio list shows all",
        )
    address = behind(kernel, f"{_NET}/{name}")
    if address is None:
        raise DeviceNotBound(
            errno.ENODEV, f"PCI device {shortened(name)}", meaning="the interface is not a PCI function's own"
        )
    return address
