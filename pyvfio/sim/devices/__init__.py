"""Simulated devices: PCI functions, the models of devices behind them, and what a model is made of.

A model of a device of your own is a class with the members of Model, handed to PciFunction(model=...).
"""

from pyvfio.sim.devices.config import (
    Capability,
    SimConfig,
    msi,
    msix,
    pci_express,
    power_management,
    single_root_io_virtualization,
)
from pyvfio.sim.devices.display import Bochs, Picture, Screen, Shown
from pyvfio.sim.devices.e1000e import E1000e
from pyvfio.sim.devices.edu import Edu
from pyvfio.sim.devices.function import VFIO_DRIVER, PciFunction
from pyvfio.sim.devices.migration import SimMigration
from pyvfio.sim.devices.model import READ_WRITE, REGISTERS, Bus, Model, SimRegion
from pyvfio.sim.devices.nvme import Nvme
from pyvfio.sim.devices.plain import PlainDevice
from pyvfio.sim.devices.ready import ready

__all__ = [
    "READ_WRITE",
    "REGISTERS",
    "VFIO_DRIVER",
    "Bochs",
    "Bus",
    "Capability",
    "E1000e",
    "Edu",
    "Model",
    "Nvme",
    "PciFunction",
    "Picture",
    "PlainDevice",
    "Screen",
    "Shown",
    "SimConfig",
    "SimMigration",
    "SimRegion",
    "msi",
    "msix",
    "pci_express",
    "power_management",
    "ready",
    "single_root_io_virtualization",
]
