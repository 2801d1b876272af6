"""RamDiscardManager: tells everyone who maps a region's memory before parts of it come and go."""

from virtiomem.discard.coordination import DiscardCoordination, DiscardUse
from virtiomem.discard.errors import DiscardRefused, ListenerDiverged
from virtiomem.discard.manager import RamDiscardManager
from virtiomem.discard.registration import Divergence
from virtiomem.discard.section import Backing, RamDiscardListener, RamDiscardSource, Section

__all__ = [
    "Backing",
    "DiscardCoordination",
    "DiscardRefused",
    "DiscardUse",
    "Divergence",
    "ListenerDiverged",
    "RamDiscardListener",
    "RamDiscardManager",
    "RamDiscardSource",
    "Section",
]
