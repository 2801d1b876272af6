"""The names a header defines: a scanner for what the C preprocessor leaves of a uapi header."""

import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from pyvfio.texts import lines_of

_LINE_MARKER: Final = re.compile(r'# \d+ "(.*?)"')
_DEFINE: Final = re.compile(r"#define (\w+) (.*\S)")
_TOKEN: Final = re.compile(r'"[^"]*"|\'[^\']*\'|\w+|[^\w\s]')
_ATTRIBUTE: Final = "__attribute__"


@dataclass(frozen=True, slots=True)
class Member:
    """A field as declared. length: as written between the brackets, None if it is no array."""

    name: str
    is_aggregate: bool
    length: str | None

    @property
    def is_flexible(self) -> bool:
        return self.length in ("", "0")


@dataclass(slots=True)
class HeaderNames:
    """What a header defines; path is the file.

    structs: the members of each, those of anonymous unions among them. constants: macros and enumerators,
    with the text of a macro that is a string. included: the macros of the headers it includes. aggregates: the types
    it defines that are structs by another name.
    """

    path: str = ""
    structs: dict[str, list[Member]] = field(default_factory=dict)
    constants: dict[str, str | None] = field(default_factory=dict)
    included: set[str] = field(default_factory=set)
    aggregates: set[str] = field(default_factory=set)

    def keep(self, names: AbstractSet[str]) -> None:
        """Forget all structs and constants but these."""
        self.structs = {name: members for name, members in self.structs.items() if name in names}
        self.constants = {name: text for name, text in self.constants.items() if name in names}


def scan(preprocessed: str, header: str) -> HeaderNames:
    """The names that header defines, from the output of `cc -E -dD`."""
    names = HeaderNames()
    tokens: list[str] = []
    path = ""
    for line in lines_of(preprocessed):
        if marker := _LINE_MARKER.match(line):
            path = marker[1]
            if path.endswith("/" + header):
                names.path = path
        elif define := _DEFINE.match(line):
            name, value = define.groups()
            if path != names.path:
                names.included.add(name)
            else:
                names.constants[name] = value if value.startswith('"') else None
        elif path == names.path and not line.startswith("#"):
            tokens += _TOKEN.findall(line)
    _scan_declarations(tokens, names)
    return names


def _scan_declarations(tokens: list[str], names: HeaderNames) -> None:
    for declaration in _split(tokens, ";"):
        if declaration[:2] in (["typedef", "struct"], ["typedef", "union"]):
            names.aggregates.add([*_without_attributes(declaration)][-1])
        if "{" not in declaration:
            continue
        opening = declaration.index("{")
        body = declaration[opening + 1 : _closing(declaration, opening)]
        if declaration[0] == "enum":
            names.constants.update((item[0], None) for item in _split(body, ",") if item)
        elif declaration[0] == "struct" and opening == 2:
            names.structs[declaration[1]] = [*_members(body, names.aggregates)]


def _members(body: list[str], aggregates: AbstractSet[str]) -> Iterator[Member]:
    for declaration in _split(body, ";"):
        declaration = [*_without_attributes(declaration)]
        if not declaration:
            continue
        is_aggregate = declaration[0] in ("struct", "union", *aggregates)
        if "{" in declaration:
            opening = declaration.index("{")
            closing = _closing(declaration, opening)
            if closing == len(declaration) - 1:
                yield from _members(declaration[opening + 1 : closing], aggregates)
                continue
            declaration = declaration[closing + 1 :]
        for declarator in _split(declaration, ","):
            bracket = declarator.index("[") if "[" in declarator else len(declarator)
            length = "".join(declarator[bracket + 1 : -1]) if bracket < len(declarator) else None
            yield Member(declarator[bracket - 1], is_aggregate and "*" not in declarator, length)


def _split(tokens: list[str], separator: str) -> Iterator[list[str]]:
    """The runs of tokens between separators that stand outside all brackets."""
    run: list[str] = []
    depth = 0
    for token in tokens:
        depth += (token in "{[(") - (token in "}])")
        if token == separator and depth == 0:
            yield run
            run = []
        else:
            run.append(token)
    if run:
        yield run


def _closing(tokens: list[str], opening: int) -> int:
    depth = 0
    for index in range(opening, len(tokens)):
        depth += (tokens[index] == "{") - (tokens[index] == "}")
        if depth == 0:
            return index
    raise ValueError("unbalanced braces")


def _without_attributes(tokens: list[str]) -> Iterator[str]:
    depth = 0
    in_attribute = False
    for token in tokens:
        if token == _ATTRIBUTE:
            in_attribute = True
        elif in_attribute:
            depth += (token == "(") - (token == ")")
            in_attribute = depth > 0
        else:
            yield token
