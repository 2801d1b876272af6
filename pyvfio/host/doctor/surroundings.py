"""What this system runs in: a virtual machine, a container."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyvfio.kernel import Kernel, exists, names_in, text_or_empty
from pyvfio.texts import lines_of

_DMI = "/sys/class/dmi/id"
_GIVE = "give the virtual machine a virtual IOMMU"
_PROVIDER = (
    f"{_GIVE} if its hypervisor has one; else it takes a machine on bare metal, or "
    "VFIO's unsafe mode (enable_unsafe_noiommu_mode of the module vfio)"
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family of processors.

    unit: what its IOMMU is called. qemu: the options with which QEMU has one.
    """

    unit: str
    qemu: str


_X86 = Architecture(
    "IOMMU (VT-d, AMD-Vi)",
    "-machine q35,kernel-irqchip=split -device intel-iommu,intremap=on, "
    "libvirt <iommu model='intel'><driver intremap='on'/></iommu>",
)
_ARM = Architecture(
    "IOMMU (SMMU)", "-machine virt,iommu=smmuv3, or -device virtio-iommu-pci; libvirt <iommu model='smmuv3'/>"
)
_RISCV = Architecture("IOMMU", "-machine virt -device riscv-iommu-pci, or -device virtio-iommu-pci")
_OTHER = Architecture("IOMMU", "-device virtio-iommu-pci, where the machine has that")

_QEMU_MAKERS = ("QEMU", "Red Hat", "KVM")
# What to do, by the maker of the machine that the firmware names, and what else its name has on a virtual one.
_HYPERVISORS = {
    "VMware": ("", "tick Expose IOMMU to guest OS in the settings of the virtual machine's processors"),
    "innotek": ("", "VirtualBox: VBoxManage modifyvm NAME --iommu=automatic, with the ICH9 chipset"),
    "Apple": ("Virtualization", _PROVIDER),
    "Microsoft": ("Virtual Machine", _PROVIDER),
    "Amazon": ("", _PROVIDER),
    "Google": ("Compute Engine", _PROVIDER),
    "Xen": ("", _PROVIDER),
}


def architecture(kernel: Kernel) -> Architecture:
    """The family of this machine's processors. Source: /proc/cpuinfo."""
    text = text_or_empty(kernel, "/proc/cpuinfo")
    for mark, found in (("vendor_id", _X86), ("CPU implementer", _ARM), ("hart", _RISCV)):
        if re.search(rf"^{mark}\s*:", text, re.MULTILINE):
            return found
    return _OTHER


def hypervisor_fix(kernel: Kernel) -> str | None:
    """How to give this virtual machine an IOMMU; None if this is no virtual machine, as far as it can be seen.

    Source: on x86 the flag "hypervisor" in /proc/cpuinfo; everywhere the maker of the machine, by DMI.
    """
    processors = architecture(kernel)
    flags = re.search(r"^flags\s*:.*\bhypervisor\b", text_or_empty(kernel, "/proc/cpuinfo"), re.MULTILINE)
    is_sure = bool(flags) or exists(kernel, "/sys/hypervisor/type")
    maker = " ".join(text_or_empty(kernel, f"{_DMI}/{name}") for name in ("sys_vendor", "product_name"))
    # Processors of x86 say so themselves; makers of virtual machines make real ones too.
    may_be_guest = is_sure or processors is not _X86
    if may_be_guest and any(name in maker for name in _QEMU_MAKERS):
        return f"{_GIVE}: QEMU {processors.qemu}"
    for name, (also, fix) in _HYPERVISORS.items():
        if may_be_guest and name in maker and (is_sure or (also in maker and ".metal" not in maker)):
            return fix
    return _GIVE if is_sure else None


def is_guest(kernel: Kernel) -> bool:
    """Whether this is a virtual machine, as far as it can be seen."""
    return hypervisor_fix(kernel) is not None


def is_xen_host(kernel: Kernel) -> bool:
    """Whether this is the system from which Xen is controlled: it runs on Xen, which keeps the IOMMU to itself.

    Source: drivers/xen/xenfs/super.c, capabilities.
    """
    return "control_d" in text_or_empty(kernel, "/proc/xen/capabilities")


def firmware_tables(kernel: Kernel) -> set[str] | None:
    """The names of the ACPI tables, "DMAR" for example; None if no ACPI is to be seen."""
    return set(names_in(kernel, "/sys/firmware/acpi/tables")) or None


def is_container(kernel: Kernel) -> bool:
    """Whether this process runs in a container: then sysfs is the host's, and /dev is not.

    Source: the files that systemd-nspawn and podman make; the files that docker and others mount over some of /etc.
    """
    if text_or_empty(kernel, "/run/systemd/container") or exists(kernel, "/run/.containerenv"):
        return True
    mounts = (line.split(" ") for line in lines_of(text_or_empty(kernel, "/proc/self/mountinfo")))
    return any(
        len(fields) > 4
        and fields[4] in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
        and re.search(r"/(containers|kubelet|sandboxes|overlay-containers)/", fields[3])
        for fields in mounts
    )
