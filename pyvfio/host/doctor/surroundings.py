"""What this system runs in: a virtual machine, a container."""

from __future__ import annotations

import re

from pyvfio.kernel import Kernel, exists, names_in, text_or_empty

_DMI = "/sys/class/dmi/id"
_QEMU = (
    "give the virtual machine a virtual IOMMU: QEMU -machine q35,kernel-irqchip=split -device intel-iommu,intremap=on, "
    "libvirt <iommu model='intel'><driver intremap='on'/></iommu>"
)
_PROVIDER = (
    "give the virtual machine a virtual IOMMU if its hypervisor has one; else it takes a machine on bare metal, or "
    "VFIO's unsafe mode (enable_unsafe_noiommu_mode of the module vfio)"
)
# What to do, by the maker of the machine that the firmware names.
_HYPERVISORS = {
    "QEMU": _QEMU,
    "Red Hat": _QEMU,
    "KVM": _QEMU,
    "VMware": "tick Expose IOMMU to guest OS in the settings of the virtual machine's processors",
    "innotek": "VirtualBox: VBoxManage modifyvm NAME --iommu=automatic, with the ICH9 chipset",
    "Microsoft": _PROVIDER,
    "Amazon": _PROVIDER,
    "Google": _PROVIDER,
    "Xen": _PROVIDER,
}


def hypervisor_fix(kernel: Kernel) -> str | None:
    """How to give this virtual machine an IOMMU; None if this is no virtual machine, as far as it can be seen.

    Source: on x86 the flag "hypervisor" in /proc/cpuinfo; everywhere the maker of the machine, by DMI.
    """
    maker = " ".join(text_or_empty(kernel, f"{_DMI}/{name}") for name in ("sys_vendor", "product_name"))
    known = next((fix for name, fix in _HYPERVISORS.items() if name in maker), None)
    processors = text_or_empty(kernel, "/proc/cpuinfo")
    if re.search(r"^flags\s*:.*\bhypervisor\b", processors, re.MULTILINE) or exists(kernel, "/sys/hypervisor/type"):
        return known or "give the virtual machine a virtual IOMMU"
    # Processors of x86 say so themselves; makers of virtual machines make real ones too.
    return known if known is _QEMU and "vendor_id" not in processors else None


def firmware_tables(kernel: Kernel) -> set[str] | None:
    """The names of the ACPI tables, "DMAR" for example; None if no ACPI is to be seen."""
    return set(names_in(kernel, "/sys/firmware/acpi/tables")) or None


def is_container(kernel: Kernel) -> bool:
    """Whether this process runs in a container: then sysfs is the host's, and /dev is not.

    Source: the files that systemd-nspawn and podman make; the files that docker and others mount over some of /etc.
    """
    if text_or_empty(kernel, "/run/systemd/container") or exists(kernel, "/run/.containerenv"):
        return True
    mounts = (line.split() for line in text_or_empty(kernel, "/proc/self/mountinfo").splitlines())
    return any(
        len(fields) > 4
        and fields[4] in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
        and re.search(r"/(containers|kubelet|sandboxes|overlay-containers)/", fields[3])
        for fields in mounts
    )
