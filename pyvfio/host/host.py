"""Host: what the commands look at and change."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from pyvfio.host.network import LinuxNetwork, Network
from pyvfio.host.rules import RuleDirectories
from pyvfio.host.uevents import LinuxUevents, Uevents
from pyvfio.host.undo import DEFAULT
from pyvfio.kernel import Kernel, LinuxKernel


@dataclass(frozen=True, slots=True)
class Host:
    """By default the one that the program runs on; a test hands the commands another.

    uevents: opens the kernel's events. undo_file: where the undo file is unless the command line names another.
    """

    kernel: Kernel = field(default_factory=LinuxKernel)
    network: Network = field(default_factory=LinuxNetwork)
    uevents: Callable[[], AbstractContextManager[Uevents]] = LinuxUevents
    undo_file: Path = DEFAULT
    rules: RuleDirectories = field(default_factory=RuleDirectories)
