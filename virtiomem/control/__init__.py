"""The control socket of a running manager: it shows the devices and takes commands."""

from typing import TYPE_CHECKING

from pyvfio.deferred import deferred

if TYPE_CHECKING:
    from virtiomem.control import places
    from virtiomem.control.client import ControlClient, ControlRefused
    from virtiomem.control.command import ControlCommand
    from virtiomem.control.managed import Guest, ManagedDevice
    from virtiomem.control.metrics_port import MetricsPort
    from virtiomem.control.migration.answers import BegunMigration, UnloggedSpace
    from virtiomem.control.migration.dirty_pages import DirtyPages
    from virtiomem.control.protocol import ProtocolError, check_keys, check_name, flag, integer, text, texts
    from virtiomem.control.server import ControlServer
    from virtiomem.control.space_status import ManagedPassed, ManagedSpace
    from virtiomem.control.status import DeviceStatus, SpaceStatus
else:
    # A module is imported when the first of its names is asked for: who shows a device needs no server.
    __getattr__, __dir__ = deferred(
        __name__,
        {
            "virtiomem.control.client": "ControlClient ControlRefused",
            "virtiomem.control.command": "ControlCommand",
            "virtiomem.control.managed": "Guest ManagedDevice",
            "virtiomem.control.metrics_port": "MetricsPort",
            "virtiomem.control.migration.answers": "BegunMigration UnloggedSpace",
            "virtiomem.control.migration.dirty_pages": "DirtyPages",
            "virtiomem.control.places": "",
            "virtiomem.control.protocol": "ProtocolError check_keys check_name flag integer text texts",
            "virtiomem.control.server": "ControlServer",
            "virtiomem.control.space_status": "ManagedPassed ManagedSpace",
            "virtiomem.control.status": "DeviceStatus SpaceStatus",
        },
    )

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
    "ManagedPassed",
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
