"""What outlives the process: the state of a device that is served, in a file."""

from virtiomem.persistence.birth import birth
from virtiomem.persistence.kept_device import KeptDevice
from virtiomem.persistence.places import state_directory, state_file
from virtiomem.persistence.record import InHand, MemoryIdentity, Record
from virtiomem.persistence.slot_file import SlotFile

__all__ = [
    "InHand",
    "KeptDevice",
    "MemoryIdentity",
    "Record",
    "SlotFile",
    "birth",
    "state_directory",
    "state_file",
]
