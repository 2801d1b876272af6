"""How to turn on the IOMMU of a host that has none."""

from __future__ import annotations

from collections.abc import Iterator

from pyvfio.host.doctor.boot import INTEL, Vendor, boot_arguments, ends_acpi, switched, vendor
from pyvfio.host.doctor.build import Build
from pyvfio.host.doctor.surroundings import architecture, firmware_tables, hypervisor_fix, is_xen_host
from pyvfio.kernel import Kernel


def how_to_turn_on(kernel: Kernel) -> str:
    """What to do to have an IOMMU on this host, as far as it can be told, as a phrase."""
    if is_xen_host(kernel):
        return "Xen has the IOMMU: give the device to a guest of Xen's (xen-pciback), or boot without Xen"
    processors = vendor(kernel)
    if processors is None:
        machine = hypervisor_fix(kernel)
        return machine or f"turn the {architecture(kernel).unit} on in the firmware"
    if argument := ends_acpi(boot_arguments(kernel)):
        return f"boot without {argument}: the kernel learns of the IOMMU from the firmware's tables"
    steps = list(_steps(kernel, processors)) or ["the kernel log says why: dmesg | grep -i -e iommu -e dmar -e amd-vi"]
    foreign = switched(boot_arguments(kernel), processors).foreign
    return ", and ".join(steps) + (f" ({foreign} is not for this processor)" if foreign else "")


def _steps(kernel: Kernel, processors: Vendor) -> Iterator[str]:
    """A phrase for each thing to do, in order; none if all that can be seen is as it should be."""
    build = Build(kernel)
    tables = firmware_tables(kernel)
    has_unit = None if tables is None else processors.table in tables
    machine = None if has_unit else hypervisor_fix(kernel)
    # Which model a virtual machine would be given, and so which driver it would need, is open.
    if machine is None and build.option(processors.config) == "n":
        yield f"take a kernel with {processors.config}: this one has no driver for {processors.unit}"
    # Where the firmware cannot be asked, a command line that says no is reason enough.
    if has_unit is False or (has_unit is None and switched(boot_arguments(kernel), processors).on is not False):
        yield machine or f"turn {processors.unit} (the IOMMU) on in the firmware"
    yield from _switch(kernel, processors, build)


def _switch(kernel: Kernel, processors: Vendor, build: Build) -> Iterator[str]:
    """A phrase for what has to change on the command line; none if nothing has to."""
    found = switched(boot_arguments(kernel), processors)
    wanted = f"{processors.switch}=on" if processors is INTEL else ""
    if found.on is False:
        also = f" and with {wanted}" if wanted and found.by.startswith("iommu=") and not _says_on(kernel) else ""
        instead = f", with {wanted} instead" if wanted and not found.by.startswith("iommu=") else also
        yield f"boot without {found.by}{instead}"
    elif not _is_switched_on(kernel, processors, build):
        yield f"boot with {wanted}"


def _is_switched_on(kernel: Kernel, processors: Vendor, build: Build) -> bool:
    """Whether the IOMMU is on by the command line, or is on in this kernel without any argument."""
    on = switched(boot_arguments(kernel), processors).on
    if on is None:
        return processors.default_on is None or build.option(processors.default_on) == "y"
    return on


def _says_on(kernel: Kernel) -> bool:
    """Whether the vendor's own switch is on, whatever iommu= says."""
    others = [(name, value) for name, value in boot_arguments(kernel) if name != "iommu"]
    return bool(switched(others, INTEL).on)
