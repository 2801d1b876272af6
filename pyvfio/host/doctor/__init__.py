"""Whether this host is ready for VFIO: checks, each with what to do about what it found."""

from __future__ import annotations

from pyvfio.host.doctor.check import Check, Status
from pyvfio.host.doctor.iommu import check_groups, check_interrupt_remapping, check_iommu, check_noiommu
from pyvfio.host.doctor.limits import check_huge_pages, check_mapping_limit, check_memlock, check_transparent_huge_pages
from pyvfio.host.doctor.needs import Needs
from pyvfio.host.doctor.nodes import check_group_nodes, check_iommufd, check_modules
from pyvfio.kernel import Kernel

__all__ = ["Check", "Needs", "Status", "examine"]


def examine(kernel: Kernel, needs: Needs) -> list[Check]:
    """Make every check; return them in the order in which trouble is best mended.

    needs: what the host is to be ready for. Nodes are opened for a moment; nothing is changed.
    """
    return [
        check_iommu(kernel),
        *check_noiommu(kernel),
        check_interrupt_remapping(kernel),
        *check_modules(kernel),
        check_iommufd(kernel),
        *check_groups(kernel),
        *check_group_nodes(kernel),
        check_memlock(kernel, needs),
        check_mapping_limit(kernel, needs),
        *check_huge_pages(kernel, needs),
        check_transparent_huge_pages(kernel),
    ]
