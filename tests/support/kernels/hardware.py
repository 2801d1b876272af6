"""Devices beside edu that the simulated and the real machine have, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from pyvfio import Kernel, LinuxKernel
from pyvfio.drivers.edu import DEVICE_ID, VENDOR_ID, edu_addresses
from pyvfio.host import bind, restore
from pyvfio.kernel import write_text
from pyvfio.noiommu import ENABLE
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices import Bus, E1000e, Model, Nvme, PlainDevice
from pyvfio.sysfs import DEVICES, group_members, pci_devices
from tests.support.kernels.testbed import Testbed


@dataclass(frozen=True, slots=True)
class Kind:
    """ids: vendor and device. address and group: where the simulated machine has it, made of model."""

    ids: tuple[int, int]
    class_code: int
    address: str
    group: int
    model: Callable[[Bus], Model]

    def function(self, physical: str | None = None) -> PciFunction:
        """physical: the address of the one whose virtual function it is."""
        return PciFunction(
            self.address,
            self.group,
            *self.ids,
            self.class_code,
            driver="vfio-pci",
            model=self.model,
            physical_function=physical,
        )


NVME = Kind((0x1B36, 0x0010), 0x010802, "0000:02:00.0", 11, Nvme)
VGA = Kind((0x1234, 0x1111), 0x030000, "0000:00:0a.0", 14, PlainDevice)

E1000E = Kind((0x8086, 0x10D3), 0x020000, "0000:03:00.0", 12, E1000e)
_RNG = (0x1AF4, 0x1005)


@contextmanager
def bound(testbed: Testbed, kind: Kind) -> Iterator[str]:
    """The address of such a device, bound to vfio-pci meanwhile."""
    if isinstance(testbed.kernel, SimKernel):
        testbed.kernel.add(kind.function())
        yield kind.address
        return
    kernel = LinuxKernel()
    address = next(d.address for d in pci_devices(kernel) if (d.vendor_id, d.device_id) == kind.ids)
    before = bind(kernel, address)
    try:
        yield address
    finally:
        restore(kernel, before)


@contextmanager
def shared_group(testbed: Testbed) -> Iterator[tuple[str, str]]:
    """The address of an edu device bound to vfio-pci, and of a virtio-rng in its group, which virtio-pci has."""
    if isinstance(testbed.kernel, SimKernel):
        edu, other = "0000:05:01.0", "0000:05:02.0"
        testbed.kernel.add(PciFunction(edu, 13, driver="vfio-pci"))
        testbed.kernel.add(PciFunction(other, 13, *_RNG, 0x00FF00, host_driver="virtio-pci", driver="virtio-pci"))
        yield edu, other
        return
    kernel = LinuxKernel()
    other, group = next((d.address, d.group) for d in pci_devices(kernel) if (d.vendor_id, d.device_id) == _RNG)
    assert group is not None
    edu = next(d.address for d in group_members(kernel, group) if (d.vendor_id, d.device_id) == (VENDOR_ID, DEVICE_ID))
    before = bind(kernel, edu)
    try:
        yield edu, other
    finally:
        restore(kernel, before)


@contextmanager
def virtual_function(testbed: Testbed, physical: str) -> Iterator[str]:
    """The address of a virtual function of an NVMe controller, in a group of its own, bound to vfio-pci."""
    address = physical[:-1] + "1"
    if isinstance(testbed.kernel, SimKernel):
        testbed.kernel.add(replace(NVME, address=address, group=NVME.group + 1).function(physical))
        yield address
        return
    kernel, count = LinuxKernel(), f"{DEVICES}/{physical}/sriov_numvfs"
    write_text(kernel, "/sys/module/vfio_pci/parameters/enable_sriov", "Y")
    write_text(kernel, count, "1")
    try:
        yield address
    finally:
        write_text(kernel, count, "0")


@contextmanager
def machine_without_iommu(kernel_name: str, version: tuple[int, int] = (7, 3)) -> Iterator[Kernel]:
    """Its edu devices are bound to vfio-pci meanwhile. version: the simulated kernel's."""
    kernel: Kernel = LinuxKernel()
    if kernel_name == "simulated":
        simulated = SimKernel(version=version, iommu="none", host_huge_pages=False)
        for number in range(2):
            simulated.add(PciFunction(f"0000:00:{3 + number:02x}.0", group=3 + number))
        kernel = simulated
    write_text(kernel, ENABLE, "1")
    with ExitStack() as stack:
        for address in edu_addresses(kernel):
            stack.callback(restore, kernel, bind(kernel, address))
        yield kernel
