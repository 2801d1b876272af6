"""All mutants, by the part of the house that they are in. A new one comes into the list of its file."""

from __future__ import annotations

from tests.mutants.mutant import Mutant
from tests.mutants.rules.device import DEVICE
from tests.mutants.rules.dma import DMA
from tests.mutants.rules.host import HOST
from tests.mutants.rules.listeners import LISTENERS
from tests.mutants.rules.memory import MEMORY
from tests.mutants.rules.sockets import SOCKETS
from tests.mutants.rules.vhost_user import VHOST_USER

MUTANTS: tuple[Mutant, ...] = (*DEVICE, *DMA, *HOST, *LISTENERS, *MEMORY, *SOCKETS, *VHOST_USER)
