"""Mediated devices: of the kernel's sample drivers, and the simulated ones that stand for them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyvfio import Container, Device, Kernel
from pyvfio.kernel import link_name, write_text
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices import Bus, Model
from pyvfio.sim.devices.plain import IDS


@contextmanager
def mediated_device(kernel: Kernel, sample: str, kind: str, model: Callable[[Bus], Model]) -> Iterator[Device]:
    """A new device of a sample driver, alone in its group and container; model: what it is on the simulated kernel.

    kind: of those that the driver makes, without the driver's name.
    """
    with _created(kernel, sample, kind, model) as (name, group), Container(kernel=kernel) as container:
        yield container.open_group(group).open_device(name)


@contextmanager
def _created(kernel: Kernel, sample: str, kind: str, model: Callable[[Bus], Model]) -> Iterator[tuple[str, int]]:
    name = str(uuid.uuid4())
    if isinstance(kernel, SimKernel):
        number = 50 + len(kernel.functions)
        kernel.add(PciFunction(name, number, *IDS, driver="vfio-pci", model=model, is_mediated=True, logs_dma=True))
        yield name, number
        return
    parent = f"/sys/devices/virtual/{sample}/{sample}"
    write_text(kernel, f"{parent}/mdev_supported_types/{sample}-{kind}/create", name)
    try:
        group = link_name(kernel, f"{parent}/{name}/iommu_group")
        assert group is not None
        yield name, int(group)
    finally:
        write_text(kernel, f"{parent}/{name}/remove", "1")
