"""What the host keeps of a device or its group, whatever driver has it: firmware's memory, a boot framebuffer's BAR."""

from __future__ import annotations

import errno
import re

from pyvfio.errors import VfioError
from pyvfio.kernel import Kernel, text_or_empty
from pyvfio.sysfs import direct_regions, resource_lines
from pyvfio.texts import lines_of


def firmware_claim(kernel: Kernel, group: int, operation: str, more: str = "") -> VfioError | None:
    """The error of operation on a group that the kernel lets nobody have, because firmware claims memory for it.

    None for other groups. more: what to add to the advice.
    Source: sysfs, reserved_regions; drivers/iommu/iommu.c, require_direct.
    """
    regions = direct_regions(kernel, group)
    if not regions:
        return None
    return VfioError(
        errno.EINVAL,
        operation,
        meaning=f"firmware claims {', '.join(regions)} for group {group} (an RMRR or IVMD: direct in its "
        "reserved_regions), so the kernel lets neither VFIO nor iommufd have it",
        advice=f"Look in the firmware's setup for what makes it do so (USB legacy, shared memory of a NIC){more}",
    )


def bar_claim(kernel: Kernel, address: str, index: int) -> tuple[str, str]:
    """What EBUSY means at a BAR of a PCI function, and what to do about it.

    The meaning names who has reserved addresses of the BAR, if this process may see it: root may.
    Source: drivers/vfio/pci/vfio_pci_core.c, pci_request_selected_regions; /proc/iomem.
    """
    names = ", ".join(bar_holders(kernel, address, index)) or "something else on the host"
    advice = (
        "/proc/iomem says who. A boot framebuffer is freed by the kernel parameter initcall_blacklist=sysfb_init, or "
        "until the next boot as root: echo 0 > /sys/class/vtconsole/vtcon1/bind; "
        "echo efi-framebuffer.0 > /sys/bus/platform/drivers/efi-framebuffer/unbind (or simple-framebuffer)"
    )
    return f"{names} has reserved addresses of this BAR", advice


def bar_holders(kernel: Kernel, address: str, index: int) -> list[str]:
    """The names in /proc/iomem of what lies within a BAR; none unless root asks: others are shown no addresses."""
    lines = resource_lines(kernel, address)
    bar = lines[index] if index < len(lines) else None
    if bar is None:
        return []
    first, last, _ = bar
    names = []
    for line in lines_of(text_or_empty(kernel, "/proc/iomem")):
        if found := re.fullmatch(r" *([0-9a-f]+)-([0-9a-f]+) : (.*)", line):
            inside = first <= int(found[1], 16) and int(found[2], 16) <= last
            # The function's own entry has its address for a name.
            if last and inside and found[3] not in (address, "vfio-pci", "vfio"):
                names.append(found[3])
    return names
