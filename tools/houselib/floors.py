"""Imports lead down: from a room to rooms on lower floors, and from outside to a room's face."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from houselib import table
from houselib.table import FACES_IN_ROOMS, HOUSES, PUBLIC_BY_MODULE, USED_ONLY_BY, USES, House
from houselib.tree import Import, Module, Tree, is_in
from houselib.violation import Violation, stale

# In a block of a page: as a line of a program, or after a prompt.
IMPORT = re.compile(r"(?:>>> )?((?:from [\w.]+ )?import [\w., ]+)")


def room_of(name: str) -> str:
    """The room of the outermost house that a module is in; the house itself for its face."""
    return ".".join(name.split(".")[:2])


def directions(tree: Tree) -> Iterator[Violation]:
    """Rule "up": the floors of the table, and who uses what."""
    for house in HOUSES:
        yield from _rooms(tree, house)
    used = set()
    for module in tree.modules.values():
        for found in tree.imports(module):
            used.add((room_of(found.module), room_of(module.name)))
            yield from _direction(module, found)
    for room, users in USED_ONLY_BY.items():
        for user in users:
            if (room, user) not in used:
                says = f"{user} imports {room} no more: take it out of USED_ONLY_BY"
                yield Violation(f"up: {user} -> {room}", table.PATH, table.line_of(f'"{room}":'), says)


def _rooms(tree: Tree, house: House) -> Iterator[Violation]:
    """What is in the table is there, and the other way round."""
    there = {room: module for module in tree.below(house.name) if (room := _room(house, module.name))}
    told = _floors(house)
    for room, module in there.items():
        if room not in told:
            says = f"{room} is on no floor of {house.name}: say in {table.PATH} where it stands"
            yield Violation(f"up: {room}", module.path, 1, says)
    for room in sorted({*told} - {*there}):
        says = f"{room} is on a floor of {house.name} and is not there: take it out"
        yield Violation(f"up: {room}", table.PATH, table.line_of(f'"{house.name}",'), says)


def _direction(module: Module, found: Import) -> Iterator[Violation]:
    package, target = module.name.split(".")[0], found.module.split(".")[0]
    room, user = room_of(found.module), room_of(module.name)
    users = USED_ONLY_BY.get(room)
    if package != target and USES.get(package) != target:
        says = f"{package} imports {found.module}, and has never heard of {target}: move what is shared into {package}"
        yield Violation(f"up: {module.path} -> {room}", module.path, found.line, says)
    elif users is not None and user not in (*users, room):
        only = f"for {' and '.join(users)} only" if users else "for nobody to import"
        says = f"imports {found.module}, which is {only}: hand in what is needed, or say why not in {table.PATH}"
        yield Violation(f"up: {module.path} -> {room}", module.path, found.line, says)
    else:
        for house in HOUSES:
            yield from _floor(house, module, found)


def _floor(house: House, module: Module, found: Import) -> Iterator[Violation]:
    floors = _floors(house)
    above, below = _room(house, module.name), _room(house, found.module)
    if above == below or above is None or below is None:
        return
    if above not in floors or below not in floors or floors[above] < floors[below]:
        return
    where = "beside" if floors[above] == floors[below] else "above"
    says = f"imports {below}, which stands {where} {above}: hand in what is needed, or move it down"
    yield Violation(f"up: {module.path} -> {below}", module.path, found.line, says)


def _floors(house: House) -> dict[str, int]:
    return {f"{house.name}.{room}": number for number, floor in enumerate(house.floors) for room in floor.split()}


def _room(house: House, name: str) -> str | None:
    """The room of house that a module is in; None for one of elsewhere, and for the house's face."""
    if not name.startswith(f"{house.name}."):
        return None
    return ".".join(name.split(".")[: house.name.count(".") + 2])


def faces(tree: Tree, pages: Mapping[str, str]) -> Iterator[Violation]:
    """Rule "face": from outside a room its face, from inside never. Also for the examples of pages, text by path."""
    for module in (*tree.modules.values(), *(_examples(*page) for page in pages.items())):
        for found in tree.imports(module):
            yield from _face(tree.modules[found.module], module, found)


def _examples(path: str, text: str) -> Module:
    """The imports of a page, each on its line."""
    lines = (IMPORT.fullmatch(line) for line in text.splitlines())
    return Module.parse(path, path, "\n".join(line[1] if line else "" for line in lines))


def _face(target: Module, module: Module, found: Import) -> Iterator[Violation]:
    key = f"face: {module.path} -> {found.module}"
    if module is not target and target.is_face and is_in(module.name, target.name):
        if found.name:
            says = f"imports {found.name} from the face of {target.name}, which it is in: import the file that has it"
            yield Violation(key, module.path, found.line, says)
    elif room_of(module.name) == room_of(target.name):
        return
    elif not _is_public(target.name):
        room = room_of(target.name)
        says = f"imports {target.name}, an inside of {room}: import from {room}, which hands on what is public"
        yield Violation(key, module.path, found.line, says)
    elif found.name and target.exported is not None and found.name not in target.exported:
        says = f"imports {found.name}, which is not in {target.name}.__all__: use what is, or add it if it is public"
        yield Violation(f"{key}.{found.name}", module.path, found.line, says)


def _is_public(name: str) -> bool:
    return name.count(".") < 2 or name in FACES_IN_ROOMS or any(is_in(name, package) for package in PUBLIC_BY_MODULE)


def public_modules_are_there(tree: Tree) -> Iterator[Violation]:
    """The faces of the table exist."""
    for name in (*PUBLIC_BY_MODULE, *FACES_IN_ROOMS):
        if name not in tree.modules:
            yield stale("face", name, f"{name} is not there: take it out")
