"""What devices are called: their kinds by class code, vendors and models by the databases of the host."""

from __future__ import annotations

import gzip
import re
import zlib
from abc import ABC, abstractmethod

from pyvfio.host.names.hwdb import CompiledHwdb, pci_key, properties_of_text
from pyvfio.kernel import Kernel, read_bytes
from pyvfio.texts import lines_of

DATABASES = ("/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids", "/usr/share/pci.ids", "/var/lib/pciutils/pci.ids")
"""Where distributions have the database of pciutils. Each may be compressed, with .gz at the end of its name."""
HWDB_TEXTS = ("/usr/lib/udev/hwdb.d/20-pci-vendor-model.hwdb", "/lib/udev/hwdb.d/20-pci-vendor-model.hwdb")
"""Where distributions have the source of systemd's database of PCI devices. It is read if there is no pci.ids."""
COMPILED_HWDBS = ("/etc/udev/hwdb.bin", "/usr/lib/udev/hwdb.bin", "/lib/udev/hwdb.bin")
"""Where systemd's database is compiled. It is read if there is no source either."""
_VENDOR, _MODEL = "ID_VENDOR_FROM_DATABASE", "ID_MODEL_FROM_DATABASE"
_KIND_OF_COMPANY = re.compile(
    r"[ ,]+(corporation|corp|incorporated|inc|co|company|ltd|limited|llc|gmbh|ag|technolog(y|ies)|semiconductors?"
    r"|electronics|systems|and subsidiaries)\.?$",
    re.IGNORECASE,
)

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
    return _KINDS.get(class_code >> 8) or wider_kind(class_code)


def wider_kind(class_code: int) -> str:
    """A word for the base class of a class code of 24 bits: "Network" for an Ethernet controller's; or "Other"."""
    return _KINDS.get(class_code >> 16, "Other")


class PciNames(ABC):
    """The names of vendors and of their devices."""

    @abstractmethod
    def vendor(self, vendor_id: int) -> str | None:
        """The vendor's name; None if it has none here."""

    @abstractmethod
    def device(self, vendor_id: int, device_id: int) -> str | None:
        """The device's name, without the vendor's; None if it has none here."""

    def name(self, vendor_id: int, device_id: int) -> str:
        """Vendor and model, "Intel Corporation I350 Gigabit Network Connection"; numbers for what has no name:
        "1234:11e8"."""
        return self._joined(self.vendor(vendor_id), vendor_id, device_id)

    def short_name(self, vendor_id: int, device_id: int) -> str:
        """Vendor and model, the vendor as people call it: "Intel I350 Gigabit Network Connection"."""
        vendor = self.vendor(vendor_id)
        return self._joined(vendor and short_vendor(vendor), vendor_id, device_id)

    def _joined(self, vendor: str | None, vendor_id: int, device_id: int) -> str:
        if vendor is None:
            return f"{vendor_id:04x}:{device_id:04x}"
        return f"{vendor} {self.device(vendor_id, device_id) or f'{device_id:04x}'}"


def short_vendor(name: str) -> str:
    """A vendor's name as people say it.

    "AMD/ATI" for "Advanced Micro Devices, Inc. [AMD/ATI]", "Realtek" for "Realtek Semiconductor Co., Ltd.".
    """
    bracketed = re.search(r"\[([^]]+)\]$", name)
    if bracketed:
        return bracketed[1]
    while (shorter := _KIND_OF_COMPANY.sub("", name)) not in (name, ""):
        name = shorter
    return name


class PciIds(PciNames):
    """The names in a pci.ids file."""

    def __init__(self, text: str = "") -> None:
        """text: what is in the file. Only its vendors and their devices are read."""
        self._vendors: dict[int, str] = {}
        self._devices: dict[tuple[int, int], str] = {}
        vendor: int | None = None
        for line in lines_of(text):
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

    def vendor(self, vendor_id: int) -> str | None:
        return self._vendors.get(vendor_id)

    def device(self, vendor_id: int, device_id: int) -> str | None:
        return self._devices.get((vendor_id, device_id))


class HwdbText(PciNames):
    """The names in a source of systemd's database."""

    def __init__(self, text: str) -> None:
        """text: what is in the file."""
        self._properties = properties_of_text(text)

    def vendor(self, vendor_id: int) -> str | None:
        return self._properties.get(pci_key(vendor_id), {}).get(_VENDOR)

    def device(self, vendor_id: int, device_id: int) -> str | None:
        return self._properties.get(pci_key(vendor_id, device_id), {}).get(_MODEL)


class HwdbCompiled(PciNames):
    """The names in systemd's compiled database, which udev reads."""

    def __init__(self, data: bytes) -> None:
        """data: what is in the file."""
        self._hwdb = CompiledHwdb(data)

    def vendor(self, vendor_id: int) -> str | None:
        return self._hwdb.properties(pci_key(vendor_id)).get(_VENDOR)

    def device(self, vendor_id: int, device_id: int) -> str | None:
        return self._hwdb.properties(pci_key(vendor_id, device_id)).get(_MODEL)


def names_of_host(kernel: Kernel) -> PciNames:
    """The names in the first database that the host has; no names if it has none.

    A compressed file that is damaged is passed over.
    """
    for path in DATABASES:
        if (data := _content(kernel, path)) is not None:
            return PciIds(data.decode(errors="replace"))
        if (data := _content(kernel, f"{path}.gz")) is not None:
            try:
                return PciIds(gzip.decompress(data).decode(errors="replace"))
            except (OSError, EOFError, zlib.error):
                continue
    for path in HWDB_TEXTS:
        if (data := _content(kernel, path)) is not None:
            return HwdbText(data.decode(errors="replace"))
    for path in COMPILED_HWDBS:
        if (data := _content(kernel, path)) is not None:
            return HwdbCompiled(data)
    return PciIds()


def _content(kernel: Kernel, path: str) -> bytes | None:
    """What is in a file; None if it is empty or cannot be read."""
    try:
        return read_bytes(kernel, path) or None
    except OSError:
        return None
