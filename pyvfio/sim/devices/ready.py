"""The models that there are by name, as functions ready to be put into a machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pyvfio.sim.devices import e1000e, edu, nvme
from pyvfio.sim.devices.function import VFIO_DRIVER, PciFunction
from pyvfio.sim.devices.model import Bus, Model


@dataclass(frozen=True, slots=True)
class _Kind:
    ids: tuple[int, int]
    class_code: int
    model: Callable[[Bus], Model]


_READY: Mapping[str, _Kind] = MappingProxyType(
    {
        "edu": _Kind((0x1234, 0x11E8), 0x00FF00, edu.Edu),
        "nvme": _Kind(nvme.IDS, nvme.CLASS_CODE, nvme.Nvme),
        "e1000e": _Kind(e1000e.IDS, e1000e.CLASS_CODE, e1000e.E1000e),
    }
)


def ready(name: str, slot: int) -> PciFunction:
    """The function 0000:00:SLOT.0 with the model of this name: bound to vfio-pci, in the group numbered as the slot.

    Raises ValueError for a name that no model has, which says those that there are.
    """
    kind = _READY.get(name)
    if kind is None:
        raise ValueError(f"no simulated device is called {name!r}: there are {', '.join(_READY)}")
    return PciFunction(f"0000:00:{slot:02x}.0", slot, *kind.ids, kind.class_code, driver=VFIO_DRIVER, model=kind.model)
