"""deferred: a face whose rooms are imported when one of their names is asked for, so that a program pays for what it
uses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def deferred(face: str, rooms: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The __getattr__ and the __dir__ of the package face, which hands on names of its rooms.

    rooms: for each room, by its whole name, the names that face hands on from it, with spaces between them. A name is
    looked up once: it stays in the face. The rooms themselves are there by name as well, imported or not, as if the
    face had imported them. Threads may ask at the same time: Python imports a module once. An import that fails raises
    what it raises, leaves the name out, and is tried again by the next who asks.
    """
    origins = {name: room for room, names in rooms.items() for name in names.split(" ") if name}
    inside = {room.removeprefix(f"{face}."): room for room in rooms}

    def get(name: str) -> object:
        if name in origins:
            value: object = getattr(import_module(origins[name]), name)
        elif name in inside:
            value = import_module(inside[name])
        else:
            raise AttributeError(f"module {face!r} has no attribute {name!r}", name=name, obj=sys.modules[face])
        setattr(sys.modules[face], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[face]), *origins, *inside})

    return get, names
