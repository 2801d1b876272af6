"""What mkdocs is told beyond mkdocs.yml: a page nobody has put into the navigation yet is there all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """mkdocs' event. Adds the pages that the navigation does not name, by their headings."""
    named = set(_paths(config["nav"]))
    directory = Path(config["docs_dir"])
    pages = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*.md"))
    if more := [{_heading(directory / page): page} for page in pages if page not in named]:
        config["nav"].insert(-1, {"More": more})
    return config


def _paths(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for value in nav.values():
            yield from _paths(value)
    else:
        for value in nav:
            yield from _paths(value)


def _heading(page: Path) -> str:
    lines = page.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), page.stem)
