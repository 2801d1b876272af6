"""The README and the pages of docs/ as tests read them: blocks of code, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    *(ROOT / page for page in ("README.md", "CONTRIBUTING.md", "tests/README.md")),
    *sorted((ROOT / "docs").glob("**/*.md")),
)

_BLOCK = re.compile(
    r"^(?:<!-- before: (?P<before>.*) -->\n)?```(?P<opening>.*)\n(?P<text>(?:.*\n)*?)```$", re.MULTILINE
)
_OPENING = re.compile(r'(?P<language>\w*)(?: title="(?P<title>[^"]+)")?')
# A call of one of our commands in a line of shell, to its end, a comment, a quote or what joins it to the next.
_COMMAND = re.compile(r"(?<![\w.-])(pyvfio|virtiomem) ([a-z][^#'&|;<>()]*)")


@dataclass(frozen=True, slots=True)
class Block:
    """before: commands that a reader does not see and that come first. title: what the site shows above the block."""

    page: Path
    number: int
    language: str
    title: str
    before: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}-{self.number}"

    @property
    def file(self) -> str | None:
        """The file of a project that the block is, as its first line says: # test_bounce.py."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found and found[1]

    @property
    def needs(self) -> str | None:
        """What the block needs that a test has not: the end of its title, or of its first line, after "needs"."""
        found = re.match(r"(?:# )?needs (.+)", self.title or self.text, re.IGNORECASE)
        return found and found[1]

    def session(self) -> Iterator[tuple[str, list[str]]]:
        """Each command after a $, and the lines that it prints."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, *lines = part.rstrip("\n").split("\n")
            yield command, lines


def blocks(page: Path) -> list[Block]:
    found = []
    for number, match in enumerate(_BLOCK.finditer(page.read_text(encoding="utf-8")), 1):
        opening = _OPENING.fullmatch(match["opening"])
        assert opening, f"{page}: {match['opening']}"
        before = tuple(match["before"].split("; ")) if match["before"] else ()
        found.append(Block(page, number, opening["language"], opening["title"] or "", before, match["text"]))
    return found


def commands(page: Path) -> list[list[str]]:
    """The words of each call of one of our commands, in blocks and indented lines that are for a shell."""
    lines = re.findall(r"^ {4}.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    for block in blocks(page):
        lines += block.text.splitlines() if block.language == "sh" else [command for command, _ in block.session()]
        lines += block.before
    return [[program, *words.split()] for line in lines for program, words in _COMMAND.findall(line)]
