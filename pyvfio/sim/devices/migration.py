"""What can be carried from one simulated device to another. The states it goes through are VFIO's to keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class SimMigration:
    """A device whose whole state is the bytes that save returns; load takes them, and refuses others with ValueError.

    precopy: whether the state can be read while the device runs. p2p: whether it has states in which it runs but begins
    no transfer. precopy_flags: VFIO_PRECOPY_INFO_*, told to a program that asks for flags.
    """

    save: Callable[[], bytes]
    load: Callable[[bytes], None]
    precopy: bool = True
    p2p: bool = False
    precopy_flags: int = 0
