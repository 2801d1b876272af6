"""An Entry of the inventory as data."""

from __future__ import annotations

from pyvfio.host import Entry


def entry_data(entry: Entry) -> dict[str, object]:
    """What list and show print for an entry with --json."""
    device = entry.device
    return {
        "address": device.address,
        "kind": entry.kind,
        "name": entry.name,
        "vendor_id": device.vendor_id,
        "device_id": device.device_id,
        "class_code": device.class_code,
        "id": f"{device.vendor_id:04x}:{device.device_id:04x}",
        "class": f"{device.class_code:06x}",
        "driver": device.driver,
        "driver_override": entry.override,
        "group": device.group,
        "viable": entry.viable,
        "noiommu": entry.is_noiommu,
        "blocked_by": [member.address for member in entry.blocked_by],
        "firmware_claims": list(entry.direct),
        "numa_node": device.numa_node,
        "group_node": entry.group_node,
        "device_node": entry.device_node,
        "interfaces": [
            {
                "name": use.name,
                "link": use.link,
                "addresses": list(use.addresses),
                "routes": list(use.routes),
                "master": use.master,
            }
            for use in entry.interfaces
        ],
        "disks": list(entry.disks),
    }
