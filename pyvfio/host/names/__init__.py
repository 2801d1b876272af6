"""What devices are called: their kinds, their vendors and models."""

from pyvfio.host.names.pci_ids import PciNames, kind, names_of_host, wider_kind

__all__ = ["PciNames", "kind", "names_of_host", "wider_kind"]
