"""A process: its files, its memory, and what it is charged for."""

from pyvfio.sim.process.area import Registers, VmArea
from pyvfio.sim.process.charges import Account, Charges
from pyvfio.sim.process.eventfd import HeldEventfds, hold_eventfd, is_same_eventfd
from pyvfio.sim.process.failure import fail
from pyvfio.sim.process.file import File, RegisterFile, Stream, Text
from pyvfio.sim.process.process import Process
from pyvfio.sim.process.user import S, UserMemory, is_user_range, read_memory, write_memory
from pyvfio.sim.process.window import FatalSignal, RegisterWindow

__all__ = [
    "Account",
    "Charges",
    "FatalSignal",
    "File",
    "HeldEventfds",
    "Process",
    "RegisterFile",
    "RegisterWindow",
    "Registers",
    "S",
    "Stream",
    "Text",
    "UserMemory",
    "VmArea",
    "fail",
    "hold_eventfd",
    "is_same_eventfd",
    "is_user_range",
    "read_memory",
    "write_memory",
]
