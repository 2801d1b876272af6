"""What devices are called: their kinds by class code, vendors and models by the host's pci.ids."""

from __future__ import annotations

from typing import Self

from pyvfio.kernel import Kernel, read_text

# Where distributions have the file.
DATABASES = ("/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids", "/var/lib/pciutils/pci.ids")

# Source: PCI Code and ID Assignment Specification; include/linux/pci_ids.h in Linux.
_KINDS = {
    0x0101: "IDE",
    0x0104: "RAID",
    0x0106: "SATA",
    0x0107: "SAS",
    0x0108: "NVMe",
    0x01: "Storage",
    0x0200: "Ethernet",
    0x0207: "InfiniBand",
    0x0280: "Network",
    0x02: "Network",
    0x0300: "VGA",
    0x0302: "3D",
    0x03: "Display",
    0x0401: "Audio",
    0x0403: "Audio",
    0x04: "Multimedia",
    0x05: "Memory",
    0x0600: "Host",
    0x0601: "ISA",
    0x0604: "Bridge",
    0x06: "Bridge",
    0x0700: "Serial",
    0x07: "Communication",
    0x08: "System",
    0x09: "Input",
    0x0A: "Docking",
    0x0B: "Processor",
    0x0C03: "USB",
    0x0C05: "SMBus",
    0x0C: "Bus",
    0x0D: "Wireless",
    0x0E: "I/O",
    0x0F: "Satellite",
    0x10: "Encryption",
    0x11: "Signal",
    0x12: "Accelerator",
}


def kind(class_code: int) -> str:
    """A word for a class code of 24 bits: "Ethernet"; "Other" for a class without a word here."""
    return _KINDS.get(class_code >> 8) or _KINDS.get(class_code >> 16, "Other")


class PciIds:
    """The names of vendors and of their devices."""

    def __init__(self, text: str = "") -> None:
        """text: the text of a pci.ids file. Only its vendors and their devices are read."""
        self._vendors: dict[int, str] = {}
        self._devices: dict[tuple[int, int], str] = {}
        vendor: int | None = None
        for line in text.splitlines():
            head, _, name = line.strip().partition("  ")
            if not name or line.startswith(("#", "\t\t")):
                continue
            if line.startswith("C "):
                break
            try:
                number = int(head, 16)
            except ValueError:
                continue
            if line.startswith("\t") and vendor is not None:
                self._devices[vendor, number] = name
            else:
                vendor = number
                self._vendors[number] = name

    @classmethod
    def of_host(cls, kernel: Kernel) -> Self:
        """The names in the first file of DATABASES that the host has; no names if it has none."""
        for path in DATABASES:
            try:
                return cls(read_text(kernel, path))
            except FileNotFoundError:
                continue
        return cls()

    def name(self, vendor_id: int, device_id: int) -> str:
        """Vendor and model, "Intel Corporation I350 Gigabit Network Connection"; numbers for what has no name:
        "1234:11e8"."""
        vendor = self._vendors.get(vendor_id)
        device = self._devices.get((vendor_id, device_id))
        if vendor is None:
            return f"{vendor_id:04x}:{device_id:04x}"
        return f"{vendor} {device or f'{device_id:04x}'}"
