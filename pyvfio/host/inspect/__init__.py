"""What can be seen of a device: in sysfs, without touching it, or by opening it."""

from pyvfio.host.inspect.config_image import Resource, config_image, resources
from pyvfio.host.inspect.decode import capabilities, header, in_words
from pyvfio.host.inspect.details import DeviceDetails, device_details
from pyvfio.host.inspect.opening import (
    opened,
    own_reset_methods,
    region_index,
    region_of,
    reset_methods,
    what_opening_does,
)

__all__ = [
    "DeviceDetails",
    "Resource",
    "capabilities",
    "config_image",
    "device_details",
    "header",
    "in_words",
    "opened",
    "own_reset_methods",
    "region_index",
    "region_of",
    "reset_methods",
    "resources",
    "what_opening_does",
]
