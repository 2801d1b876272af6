"""The kernel's command line, read as the kernel reads it, and what it says of the IOMMU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyvfio.host.doctor.surroundings import firmware_tables
from pyvfio.kernel import Kernel, text_or_empty

Arguments = list[tuple[str, str]]


def boot_arguments(kernel: Kernel) -> Arguments:
    """The names and values of the arguments in /proc/cmdline, in order."""
    return list(parse(text_or_empty(kernel, "/proc/cmdline")))


def parse(text: str) -> Iterator[tuple[str, str]]:
    """The names and values of a command line's arguments, up to "--", after which they are init's.

    Names have underscores for dashes: the kernel does not tell them apart.
    Source: Documentation/admin-guide/kernel-parameters.rst; lib/cmdline.c, next_arg.
    """
    for word in _words(text):
        if word == "--":
            return
        name, _, value = word.removeprefix('"').removesuffix('"' if word.startswith('"') else "").partition("=")
        yield name.replace("-", "_"), value.removeprefix('"').removesuffix('"')


def _words(text: str) -> Iterator[str]:
    """The words of a command line. A blank between double quotes does not end a word."""
    word, quoted = "", False
    for character in text:
        if character.isspace() and not quoted:
            if word:
                yield word
            word = ""
            continue
        quoted ^= character == '"'
        word += character
    if word:
        yield word


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor of processors.

    switch: the argument that turns its IOMMU on and off. unit: what its IOMMU is called. table: the ACPI table that
    describes it. config: the option of the kernel's configuration that builds its driver. default_on: the option that
    turns it on without the switch; None if it is on without any.
    """

    switch: str
    unit: str
    table: str
    config: str
    default_on: str | None


INTEL = Vendor("intel_iommu", "VT-d", "DMAR", "CONFIG_INTEL_IOMMU", "CONFIG_INTEL_IOMMU_DEFAULT_ON")
AMD = Vendor("amd_iommu", "AMD-Vi", "IVRS", "CONFIG_AMD_IOMMU", None)
# Hygon's processors are AMD's, those of Centaur and Zhaoxin have VT-d.
_VENDORS = {
    "GenuineIntel": INTEL,
    "CentaurHauls": INTEL,
    "Shanghai": INTEL,
    "AuthenticAMD": AMD,
    "HygonGenuine": AMD,
}


def vendor(kernel: Kernel) -> Vendor | None:
    """Whose IOMMU this host has, or would have; None if no argument of the command line is for it.

    The firmware's tables decide, as they do for the kernel: virtual machines have Intel's on any processor. The
    processor decides where there is no such table.
    """
    tables = firmware_tables(kernel) or set()
    if found := next((each for each in (INTEL, AMD) if each.table in tables), None):
        return found
    text = text_or_empty(kernel, "/proc/cpuinfo")
    return next((each for name, each in _VENDORS.items() if name in text), None)


def ends_acpi(arguments: Arguments) -> str:
    """The argument that keeps the kernel from reading the firmware's tables; "" for none.

    Source: arch/x86/kernel/acpi/boot.c, parse_acpi.
    """
    found = [value for name, value in arguments if name == "acpi" and value in ("off", "force", "on")]
    return "acpi=off" if found and found[-1] == "off" else ""


def ends_remapping(arguments: Arguments) -> str:
    """The argument that turns interrupt remapping off; "" for none.

    Source: drivers/iommu/irq_remapping.c, setup_nointremap and setup_irqremap.
    """
    for name, value in arguments:
        if name == "nointremap":
            return name
        if name == "intremap" and "off" in _parts(value):
            return f"{name}={value}"
    return ""


@dataclass(frozen=True, slots=True)
class Switched:
    """What the command line says of the IOMMU.

    on: whether it is to be on; None if nothing is said. by: the argument that says so; "" for none. foreign: an
    argument for the other vendor's IOMMU, which this one's driver does not look at; "" for none.
    """

    on: bool | None
    by: str = ""
    foreign: str = ""


def switched(arguments: Arguments, vendor: Vendor) -> Switched:
    """What the arguments say of vendor's IOMMU.

    iommu=off is the last word wherever it stands; of the vendor's own switch the last on or off counts.
    Source: arch/x86/kernel/pci-dma.c, iommu_setup; drivers/iommu/intel/iommu.c, intel_iommu_setup;
    drivers/iommu/amd/init.c, parse_amd_iommu_options.
    """
    other = AMD if vendor is INTEL else INTEL
    foreign = next((f"{name}={value}" for name, value in arguments if name == other.switch), "")
    on, by = None, ""
    for name, value in arguments:
        for part in _parts(value) if name == vendor.switch else ():
            if part.startswith("off") or (vendor is INTEL and part.startswith("on")):
                on, by = part.startswith("on"), f"{name}={value}"
    for name, value in arguments:
        if name == "iommu" and any(part.startswith("off") for part in _parts(value)):
            on, by = False, f"{name}={value}"
    return Switched(on, by, foreign)


def _parts(value: str) -> Iterable[str]:
    return value.split(",")
