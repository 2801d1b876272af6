"""Where a test of the kernel interface can run: the simulated kernel, or a real one under a model of IOMMU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmlib.hardware import IOMMUS
from vmlib.kernels import KERNELS, cached

SIMULATED = "simulated"

GUEST_TARGET = "PYVFIO_GUEST_TARGET"
"""The variable that in a machine says which target it is."""

WITHOUT_IOMMU = frozenset({"noiommu", "mdev", "iommufd-test"})
"""Features that need no IOMMU; noiommu must do without."""

BY_IOMMU = {
    "intel": frozenset({"shared-group", "express-dma"}),
    # QEMU before 10.1 takes the DMA of what is behind a bridge for that of 0000:00:00.0.
    "amd": frozenset({"shared-group"}),
    "virtio": frozenset({"express-dma"}),
}
"""What of the machine's hardware works behind which model of IOMMU: a group of two devices, DMA behind a root port."""

FEATURES = frozenset({"real", *IOMMUS}).union(*(kernel.features for kernel in KERNELS.values()), *BY_IOMMU.values())
"""All that a test may need."""

REQUIRED = (
    ("debian-6.1", "intel"),
    ("debian-7", "intel"),
    ("built", "intel"),
    ("built", "none"),
    ("built-compat", "intel"),
)
"""Kernels and IOMMU models that continuous integration may not do without: the oldest, the newest, the most capable."""


@dataclass(frozen=True, slots=True)
class Target:
    kernel: str
    iommu: str

    @property
    def name(self) -> str:
        return f"{self.kernel}-{self.iommu}"

    @property
    def features(self) -> frozenset[str]:
        """What a test may need and finds here."""
        kernel = KERNELS[self.kernel]
        if self.iommu == "none":
            return (kernel.features & WITHOUT_IOMMU) | {"real", "none"}
        if self.iommu not in kernel.iommus:
            return frozenset({"real"})
        return (kernel.features - {"noiommu"}) | BY_IOMMU[self.iommu] | {"real", self.iommu}


TARGETS = {target.name: target for kernel in KERNELS for target in (Target(kernel, iommu) for iommu in IOMMUS)}


def features(name: str) -> frozenset[str]:
    """Of a target or of the simulated kernel, which has everything."""
    return FEATURES - {"real"} if name == SIMULATED else TARGETS[name].features


def chosen(kernels: Sequence[str], iommus: Sequence[str], required: bool) -> list[str]:
    """The names of what to test on, of those asked for or by default: on a user's machine what it has anyway."""
    if not kernels and not iommus and required:
        pairs: Sequence[tuple[str, str]] = REQUIRED
    elif not kernels and not iommus and cached("built"):
        pairs = [("stock", "intel"), ("built", "intel"), ("built", "none")]
    else:
        real = [kernel for kernel in kernels or ["stock"] if kernel != SIMULATED]
        pairs = [(kernel, iommu) for kernel in real for iommu in iommus or ["intel"]]
    simulated = [SIMULATED] if not kernels or SIMULATED in kernels else []
    return simulated + [Target(*pair).name for pair in pairs]
