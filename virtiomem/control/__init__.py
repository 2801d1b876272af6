"""The control socket of a running manager: it shows the devices and takes commands."""

from virtiomem.control import places
from virtiomem.control.client import ControlClient, ControlRefused
from virtiomem.control.managed import Guest, ManagedDevice
from virtiomem.control.metrics_port import MetricsPort
from virtiomem.control.migration.answers import BegunMigration, UnloggedSpace
from virtiomem.control.migration.dirty_pages import DirtyPages
from virtiomem.control.protocol import check_name
from virtiomem.control.server import ControlServer
from virtiomem.control.status import DeviceStatus, SpaceStatus

__all__ = [
    "BegunMigration",
    "ControlClient",
    "ControlRefused",
    "ControlServer",
    "DeviceStatus",
    "DirtyPages",
    "Guest",
    "ManagedDevice",
    "MetricsPort",
    "SpaceStatus",
    "UnloggedSpace",
    "check_name",
    "places",
]
