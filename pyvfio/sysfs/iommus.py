"""The IOMMUs of the host as sysfs shows them."""

from __future__ import annotations

from pyvfio.kernel import Kernel, names_in

VT_D = "Intel VT-d"
"""The kind of Intel's IOMMU."""
VIRTIO_IOMMU = "virtio-iommu"
"""The kind of the IOMMU that hypervisors make of virtio."""

_UNITS = "/sys/class/iommu"
_KINDS = {"dmar": VT_D, "ivhd": "AMD-Vi", "smmu": "Arm SMMU", "arm-smmu": "Arm SMMU"}


def iommu_kinds(kernel: Kernel) -> list[str]:
    """The kind of each unit that translates for devices: "Intel VT-d", "virtio-iommu"; its name if that is not known.

    Source: /sys/class/iommu. The name tells, but for virtio-iommu, whose unit is named after the device that its own
    virtio device is on: drivers/iommu/virtio-iommu.c, viommu_probe.
    """
    # The one of iommufd's own tests translates nothing.
    return [_kind(kernel, name) for name in names_in(kernel, _UNITS) if not name.startswith("iommufd_selftest")]


def _kind(kernel: Kernel, unit: str) -> str:
    for prefix, kind in _KINDS.items():
        if unit.startswith(prefix):
            return kind
    try:
        place = kernel.readlink(f"{_UNITS}/{unit}")
    except OSError:
        return unit
    return VIRTIO_IOMMU if any(part.startswith("virtio") for part in place.split("/")) else unit
