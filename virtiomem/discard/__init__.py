"""RamDiscardManager: tells everyone who maps a region's memory before parts of it come and go."""

from virtiomem.discard.coordination import DiscardCoordination, DiscardHold, DiscardUse
from virtiomem.discard.errors import DiscardRefused, ListenerDiverged, few
from virtiomem.discard.manager import RamDiscardManager
from virtiomem.discard.registration import Divergence
from virtiomem.discard.section import Backing, KeepsBooks, RamDiscardListener, RamDiscardSource, Section
from virtiomem.discard.telling import Telling

__all__ = [
    "Backing",
    "DiscardCoordination",
    "DiscardHold",
    "DiscardRefused",
    "DiscardUse",
    "Divergence",
    "KeepsBooks",
    "ListenerDiverged",
    "RamDiscardListener",
    "RamDiscardManager",
    "RamDiscardSource",
    "Section",
    "Telling",
    "few",
]
