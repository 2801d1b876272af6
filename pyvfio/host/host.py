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
    """What the commands look at and change: by default the host that they run on; a test hands them another.

    kernel: takes their system calls. network: tells what network interfaces are used for. uevents: opens the stream of
    the kernel's uevents. undo_file: where the undo file is unless the command line names another. rules: where the udev
    rules are.
    """

    kernel: Kernel = field(default_factory=LinuxKernel)
    network: Network = field(default_factory=LinuxNetwork)
    uevents: Callable[[], AbstractContextManager[Uevents]] = LinuxUevents
    undo_file: Path = DEFAULT
    rules: RuleDirectories = field(default_factory=RuleDirectories)
