"""What the machine is made of, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

DISK_SIZE = 64 << 20
"""Bytes of the NVMe namespace; zeros at first."""


@dataclass(frozen=True, slots=True)
class Iommu:
    """arguments: QEMU's, before those of every device that it is to see. append: the kernel's. without: names in PARTS,
    of what does not go together with it."""

    arguments: Sequence[str]
    append: str
    without: Sequence[str] = ()


IOMMUS = {
    # 39 bits, as QEMU before 9.2 has them by itself.
    "intel": Iommu(("-device", "intel-iommu,intremap=on,caching-mode=on,aw-bits=39"), "intel_iommu=on iommu=nopt"),
    # Linux 7 remaps interrupts only if the IOAPIC of QEMU's table, 00:14.0, is a southbridge by its class.
    "amd": Iommu(
        (
            *("-device", "amd-iommu,intremap=on", "-drive", "driver=null-co,if=none,id=southbridge"),
            *("-device", "virtio-blk-pci,class=0x0c05,drive=southbridge,addr=14.0"),
        ),
        "iommu=nopt",
    ),
    # It cannot remap interrupts: init allows unsafe ones. From 6.18 on Linux gives it up altogether for the devices
    # behind a conventional bridge, of which QEMU tells it nothing.
    "virtio": Iommu(("-device", "virtio-iommu-pci"), "vm.unsafe_interrupts", without=("shared-group",)),
    "none": Iommu((), "vfio.enable_unsafe_noiommu_mode=1"),
}

_EDU = "edu,dma_mask=0xffffffffffffffff"


@dataclass(frozen=True, slots=True)
class Part:
    """devices: values of QEMU's -device, in this order. options: further arguments, {disk} for a file of DISK_SIZE."""

    name: str
    what: str
    devices: Sequence[str]
    options: Sequence[str] = ()


PARTS = {
    part.name: part
    for part in (
        Part(
            "shared-group",
            "an edu and a virtio-rng in one IOMMU group and on one bus: not viable, because virtio-pci has the latter",
            ("pcie-pci-bridge,id=bridge", f"{_EDU},bus=bridge,addr=1", "virtio-rng-pci,bus=bridge,addr=2"),
        ),
        Part(
            "nvme",
            "an NVMe controller with a namespace of 64 MiB, MSI-X, function level reset and two virtual functions",
            (
                # Above 5 GT/s the kernel waits, after a bus reset, for a link that QEMU 7.2 does not report.
                "pcie-root-port,id=nvme-port,chassis=1,x-speed=5",
                "nvme-subsys,id=nvme-subsystem",
                (
                    "nvme,id=nvme,bus=nvme-port,subsys=nvme-subsystem,serial=pyvfio,max_ioqpairs=8,msix_qsize=9,"
                    "sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2"
                ),
                "nvme-ns,bus=nvme,nsid=1,drive=disk",
            ),
            ("-drive", "file={disk},if=none,id=disk,format=raw,cache=unsafe,file.locking=off"),
        ),
        Part(
            "e1000e",
            "a network controller with MSI-X and I/O ports, which no driver of the guest holds",
            ("pcie-root-port,id=e1000e-port,chassis=2", "e1000e,bus=e1000e-port"),
        ),
        Part(
            "virtio-net",
            "a network controller that virtio-pci holds, with function level reset",
            ("pcie-root-port,id=virtio-net-port,chassis=3", "virtio-net-pci,bus=virtio-net-port,romfile="),
        ),
        Part("vga", "a VGA with the firmware's text on its screen, which no driver of the guest holds", ("VGA",)),
    )
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """memory: MiB; huge_pages: of 2 MiB, out of memory; edu: how many edu devices, each in a group of its own;
    parts: names in PARTS; devices: further values of -device; append: further arguments of the kernel."""

    iommu: str = "intel"
    cpu: str = "max"
    cpus: int = 1
    memory: int = 1536
    huge_pages: int = 256
    edu: int = 3
    parts: Sequence[str] = field(default=tuple(PARTS))
    devices: Sequence[str] = ()
    append: str = ""

    @property
    def kernel_arguments(self) -> str:
        return f"hugepages={self.huge_pages} {IOMMUS[self.iommu].append} {self.append}"

    @property
    def modules(self) -> tuple[str, ...]:
        """Of the guest's kernel, beside those of every machine."""
        return ("kvm_amd",) if "+svm" in self.cpu else ()

    def processor_arguments(self) -> list[str]:
        """QEMU's, for what comes before all devices."""
        return ["-cpu", self.cpu, "-smp", str(self.cpus), "-m", str(self.memory), *IOMMUS[self.iommu].arguments]

    def device_arguments(self, disk: Path) -> list[str]:
        """QEMU's. disk: a file of DISK_SIZE bytes."""
        parts = [PARTS[name] for name in self.parts if name not in IOMMUS[self.iommu].without]
        devices = [_EDU] * self.edu + [device for part in parts for device in part.devices] + [*self.devices]
        options = [option.format(disk=disk) for part in parts for option in part.options]
        return options + [word for device in devices for word in ("-device", device)]
