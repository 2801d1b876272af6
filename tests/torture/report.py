"""docs/reliability.md: its table is of what was run last."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.torture.part import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->\n"


def table(outcomes: Iterable[Outcome]) -> str:
    """The outcomes as a table of the page."""
    rows = [
        f"| {each.part.name} | {each.part.promise} | {each.count:,} {each.part.unit} | {len(each.failures)} "
        f"| {each.seconds:,.0f} s |"
        for each in outcomes
    ]
    machine = f"Python {platform.python_version()}, Linux {platform.release()}, {platform.machine()}."
    head = ["| part | what holds | count | failures | time |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, "", machine, ""])


def write(outcomes: Sequence[Outcome], page: Path = PAGE) -> None:
    """Have the outcomes in the page's table. Raises ValueError for a page without one."""
    text = page.read_text(encoding="utf-8")
    begin, end = text.index(_BEGIN) + len(_BEGIN), text.index(_END)
    page.write_text(f"{text[:begin]}\n{table(outcomes)}\n{text[end:]}", encoding="utf-8")
