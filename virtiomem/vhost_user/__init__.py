"""virtio-mem over vhost-user: the device of a guest that QEMU, or another front end, runs in a process of its own."""

from virtiomem.vhost_user.device import VhostUserDevice
from virtiomem.vhost_user.errors import FrontEndError, QueueBroken
from virtiomem.vhost_user.events import ConfigChanges, FrontEndEvents
from virtiomem.vhost_user.served_region import ServedRegion, ServedRegionOptions

__all__ = [
    "ConfigChanges",
    "FrontEndError",
    "FrontEndEvents",
    "QueueBroken",
    "ServedRegion",
    "ServedRegionOptions",
    "VhostUserDevice",
]
