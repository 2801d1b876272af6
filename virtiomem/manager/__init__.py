"""A server whose devices and address spaces come and go while its guests run."""

from virtiomem.manager.commands import ServerCommands
from virtiomem.manager.defaults import PROPERTIES, RegionDefaults, RegionRequest
from virtiomem.manager.keeping import ServerKeeper, outliving
from virtiomem.manager.server import Server

__all__ = [
    "PROPERTIES",
    "RegionDefaults",
    "RegionRequest",
    "Server",
    "ServerCommands",
    "ServerKeeper",
    "outliving",
]
