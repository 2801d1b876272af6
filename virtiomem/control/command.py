"""ControlCommand: a command of a control socket that its owner adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ControlCommand:
    """What a ControlServer does when it is asked for a command of its owner's.

    run: called in the client's thread, with the request and the descriptors that came with it; it removes those that it
    takes over from the list, and the server closes the others. Returns the result, as JSON values. Raises ProtocolError
    for a wrong argument, OSError for what cannot be done. most_descriptors: how many may come with it. A request with
    more is refused before run is called.
    """

    run: Callable[[dict[str, object], list[int]], dict[str, object]]
    most_descriptors: int = 0
