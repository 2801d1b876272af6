"""Whether this host is ready for VFIO: checks, each with what to do about what it found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pyvfio.host.doctor.check import Check, Status
from pyvfio.host.doctor.iommu import check_groups, check_interrupt_remapping, check_iommu, check_noiommu
from pyvfio.host.doctor.limits import (
    check_huge_pages,
    check_mapping_limit,
    check_memlock,
    check_memory,
    check_transparent_huge_pages,
)
from pyvfio.host.doctor.modules import check_modules
from pyvfio.host.doctor.needs import Needs
from pyvfio.host.doctor.nodes import check_group_nodes, check_iommufd
from pyvfio.kernel import Kernel

__all__ = ["Check", "Needs", "Status", "examine"]

_FOLLOWS = "follows from the missing IOMMU"


def examine(kernel: Kernel, needs: Needs) -> list[Check]:
    """Make every check; return them in the order in which trouble is best mended.

    needs: what the host is to be ready for. A check that fails only because there is no IOMMU has the status SKIP.
    Nodes are opened for a moment; nothing is changed.
    """
    iommu = check_iommu(kernel)
    unsafe = list(check_noiommu(kernel))
    on_iommu = [check_interrupt_remapping(kernel), *check_groups(kernel)]
    nodes = list(check_group_nodes(kernel))
    if iommu.status is Status.FAIL:
        on_iommu = list(_following(on_iommu))
        nodes = nodes if unsafe else list(_following(nodes))
    remapping, *groups = on_iommu
    return [
        iommu,
        *unsafe,
        remapping,
        *check_modules(kernel),
        check_iommufd(kernel),
        *groups,
        *nodes,
        check_memlock(kernel, needs),
        *check_memory(kernel, needs),
        check_mapping_limit(kernel, needs),
        *check_huge_pages(kernel, needs),
        check_transparent_huge_pages(kernel),
    ]


def _following(checks: Iterable[Check]) -> Iterator[Check]:
    """The checks of a host without an IOMMU: what they found wrong follows from that."""
    for check in checks:
        is_well = check.status is Status.OK
        yield check if is_well else replace(check, status=Status.SKIP, found=f"{check.found}: {_FOLLOWS}", fix="")
