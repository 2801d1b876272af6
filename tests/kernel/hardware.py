"""Devices beside edu that the simulated and the real machine have, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyvfio import LinuxKernel
from pyvfio.host.bind import bind, restore
from pyvfio.host.pci import pci_devices
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.model import Bus, Model
from pyvfio.sim.nvme import Nvme
from tests.kernel.conftest import Testbed


@dataclass(frozen=True, slots=True)
class Kind:
    """ids: vendor and device. address and group: where the simulated machine has it, made of model."""

    ids: tuple[int, int]
    class_code: int
    address: str
    group: int
    model: Callable[[Bus], Model]

    def function(self) -> PciFunction:
        return PciFunction(self.address, self.group, *self.ids, self.class_code, driver="vfio-pci", model=self.model)


NVME = Kind((0x1B36, 0x0010), 0x010802, "0000:02:00.0", 11, Nvme)


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
