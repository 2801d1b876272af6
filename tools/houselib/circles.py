"""Files of one room whose imports lead back to them."""

from __future__ import annotations

from collections.abc import Iterator

from houselib import table
from houselib.floors import room_of
from houselib.table import CIRCLES, HOUSES
from houselib.tree import Tree, is_in
from houselib.violation import Violation, stale


def circles(tree: Tree) -> Iterator[Violation]:
    """Rule "circle": none inside a room but those of the table, with as many files as it says.

    Across rooms the floors allow none.
    """
    told = {circle.room: circle.files for circle in CIRCLES}
    for room in sorted(_rooms(tree)):
        names = _in_circles(tree, room)
        allowed = told.get(room, 0)
        if len(names) > allowed:
            files = ", ".join(sorted(name.removeprefix(f"{room}.") for name in names))
            limit = f"{table.PATH} says {allowed}" if allowed else "none is allowed"
            says = f"{len(names)} files of {room} import each other in circles, and {limit}: cut an import of {files}"
            yield Violation(f"circle: {room} {len(names)}", tree.modules[min(names)].path, 1, says)
        elif len(names) < allowed:
            says = f"{len(names)} files of {room} are in circles, not {allowed}: say so, or take the line out"
            yield stale("circle", f'Circle("{room}"', says)
    for room in sorted({*told} - _rooms(tree)):
        yield stale("circle", f'Circle("{room}"', f"{room} is not there: take the line out")


def _rooms(tree: Tree) -> set[str]:
    """Rooms of the innermost house that each module is in."""
    inner = [house.name for house in HOUSES if "." in house.name]
    rooms = set()
    for name in tree.modules:
        house = next((each for each in inner if is_in(name, each)), None)
        rooms.add(".".join(name.split(".")[: house.count(".") + 2]) if house else room_of(name))
    return rooms - {house.name for house in HOUSES}


def _in_circles(tree: Tree, room: str) -> set[str]:
    """Modules of room from which its imports lead back to them, the face left out."""
    names = {module.name for module in tree.below(room)} - {room}
    arrows = {name: {found.module for found in tree.imports(tree.modules[name])} & names - {name} for name in names}
    return {name for name in arrows if name in _reached(arrows, name)}


def _reached(arrows: dict[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    todo = [*arrows[start]]
    while todo:
        if (name := todo.pop()) not in reached:
            reached.add(name)
            todo += arrows[name]
    return reached
