"""A model of a device, such as those of pyvfio.sim.devices, as a PCI device of a virtual machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pyvfio.container import Container
from pyvfio.sim import SimKernel
from pyvfio.sim.devices import VFIO_DRIVER, Bus, Model, PciFunction
from pyvfio.vfio_user import GuestMemory, Permissions, ServedDevice, Server, ServerEvents

_ADDRESS: Final = "0000:00:01.0"


@contextmanager
def model_server(
    path: str,
    model: Callable[[Bus], Model],
    *,
    events: ServerEvents | None = None,
    permissions: Permissions | None = None,
) -> Iterator[Server]:
    """A Server of a device that the model makes up, in a simulated machine of its own; it ends with the with block.

    path: of the socket, for QEMU's vfio-user-pci for example. What the model reads and writes over its bus is the
    guest's memory, through a container of the simulated kernel; what it interrupts are the guest's vectors. The guest's
    files must be sealed against shortening, as GuestMemory says. events, permissions: as for Server.
    Raises VfioError if the socket cannot be made, or on a host that is not little endian with pages of 4 KiB.
    """
    kernel = SimKernel()
    kernel.add(PciFunction(_ADDRESS, group=1, driver=VFIO_DRIVER, model=model))
    with Container(kernel=kernel) as container:
        served = ServedDevice(container.open_device(_ADDRESS))
        memory = GuestMemory(container).listener()
        with Server(path, served, memory, events=events, permissions=permissions) as server:
            yield server
