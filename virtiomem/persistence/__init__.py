"""What outlives the process: the state of a device in a file, and descriptors in the hands of a service manager."""

from virtiomem.persistence.birth import birth
from virtiomem.persistence.descriptor_store import DescriptorStore
from virtiomem.persistence.keeper import Keeper
from virtiomem.persistence.kept_device import KeptDevice
from virtiomem.persistence.notify_socket import NotifySocket
from virtiomem.persistence.places import state_directory, state_file
from virtiomem.persistence.record import InHand, MemoryIdentity, Record
from virtiomem.persistence.service_manager import ServiceManager, inherited
from virtiomem.persistence.slot_file import SlotFile

__all__ = [
    "DescriptorStore",
    "InHand",
    "Keeper",
    "KeptDevice",
    "MemoryIdentity",
    "NotifySocket",
    "Record",
    "ServiceManager",
    "SlotFile",
    "birth",
    "inherited",
    "state_directory",
    "state_file",
]
