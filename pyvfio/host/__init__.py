"""The host around VFIO: which PCI devices there are, which driver and group they are in."""
