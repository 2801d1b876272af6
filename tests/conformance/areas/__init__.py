"""The cases, by what they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.conformance.areas import (
    accounting,
    attach,
    cdev,
    compat,
    container,
    device_info,
    dirty,
    features,
    group,
    info,
    iommufd,
    iova,
    irqs,
    map_dma,
    mdev,
    memory,
    msix,
    nesting,
    noiommu,
    noiommu_cdev,
    processes,
    regions,
    reset,
    unmap_dma,
    unmap_type1,
    vaddr,
)
from tests.conformance.case import Case

AREAS: Mapping[str, Sequence[Case]] = {
    "container": container.CASES,
    "group": group.CASES,
    "attach": attach.CASES,
    "info": info.CASES,
    "map": map_dma.CASES,
    "iova": iova.CASES,
    "memory": memory.CASES,
    "unmap": unmap_dma.CASES,
    "unmap-type1": unmap_type1.CASES,
    "vaddr": vaddr.CASES,
    "dirty": dirty.CASES,
    "accounting": accounting.CASES,
    "processes": processes.CASES,
    "mdev": mdev.CASES,
    "noiommu": noiommu.CASES,
    "noiommu-cdev": noiommu_cdev.CASES,
    "device-info": device_info.CASES,
    "regions": regions.CASES,
    "irqs": irqs.CASES,
    "msix": msix.CASES,
    "reset": reset.CASES,
    "features": features.CASES,
    "iommufd": iommufd.CASES,
    "cdev": cdev.CASES,
    "compat": compat.CASES,
    "nesting": nesting.CASES,
}
