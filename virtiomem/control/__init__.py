"""The control socket of a running manager: it shows the devices and takes commands."""

from virtiomem.control import places
from virtiomem.control.client import ControlClient, ControlRefused
from virtiomem.control.command import ControlCommand
from virtiomem.control.managed import Guest, ManagedDevice
from virtiomem.control.metrics_port import MetricsPort
from virtiomem.control.migration.answers import BegunMigration, UnloggedSpace
from virtiomem.control.migration.dirty_pages import DirtyPages
from virtiomem.control.protocol import ProtocolError, check_keys, check_name, flag, integer, text, texts
from virtiomem.control.server import ControlServer
from virtiomem.control.space_status import ManagedSpace
from virtiomem.control.status import DeviceStatus, SpaceStatus

__all__ = [
    "BegunMigration",
    "ControlClient",
    "ControlCommand",
    "ControlRefused",
    "ControlServer",
    "DeviceStatus",
    "DirtyPages",
    "Guest",
    "ManagedDevice",
    "ManagedSpace",
    "MetricsPort",
    "ProtocolError",
    "SpaceStatus",
    "UnloggedSpace",
    "check_keys",
    "check_name",
    "flag",
    "integer",
    "places",
    "text",
    "texts",
]
