"""A PCI function of the simulated machine: what it is, which driver has it, and the model of its device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pyvfio.sim.devices.edu import Edu
from pyvfio.sim.devices.model import Bus, Model
from pyvfio.sim.iommu import Span

VFIO_DRIVER = "vfio-pci"


@dataclass(slots=True)
class PciFunction:
    """A function of the machine.

    group: the number of its IOMMU group. driver: who has it, None for nobody; host_driver: who takes it when no
    override says otherwise; drivers_refusing: drivers whose probe fails. interfaces, disks: the network interfaces and
    block devices that the host driver makes of it.
    model: what the device does. host_vectors: how many message interrupts the host has for it. logs_dma: whether it can
    note what it writes. physical_function: the address of the function whose virtual function it is.
    reserved: device addresses, the first and the last of each span, that must not be mapped for it, besides those of
    the IOMMU (RMRRs). behind_iommu: whether the machine's IOMMU, if it has one, covers the function.
    header_type: of its config space; 1 is a bridge to another bus. held_disks: the disks that somebody has open
    exclusively. direct: device addresses, the first and the last of each span, that firmware wants mapped one to one,
    which keeps everybody from using the group.
    is_mediated: it is a mediated device, on no PCI bus, with a UUID for an address. It has no IOMMU, and its driver
    pins memory only when it needs it.
    """

    address: str
    group: int
    vendor_id: int = 0x1234
    device_id: int = 0x11E8
    class_code: int = 0x00FF00
    host_driver: str | None = None
    driver: str | None = None
    override: str | None = None
    drivers_refusing: set[str] = field(default_factory=set)
    interfaces: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    reserved: tuple[Span, ...] = ()
    is_mediated: bool = False
    behind_iommu: bool = True
    model: Callable[[Bus], Model] = Edu
    host_vectors: int = 256
    physical_function: str | None = None
    logs_dma: bool = False
    header_type: int = 0
    held_disks: tuple[str, ...] = ()
    direct: tuple[Span, ...] = ()

    @property
    def in_host_hands(self) -> bool:
        """Whether its driver keeps its group from being used: unless the driver says driver_managed_dma."""
        return self.driver not in (None, VFIO_DRIVER, "pci-stub", "pcieport")
