"""Every Python example of the README and the docs runs as it stands, unless it needs a device of the reader's."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "python"), 1)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block: str) -> None:
    code = compile(block, "example", "exec")
    if "SimKernel" in block:
        exec(code, {"__name__": "example"})


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=lambda page: page.name)
def test_sessions_say_what_the_page_says(page: Path) -> None:
    """The blocks of a page are one session: what one defines, the next uses."""
    text = "\n".join(blocks(page, "pycon"))
    session = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    told: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(session, out=told.append)
    assert results.attempted > 0
    assert not results.failed, "".join(told)


def test_the_reference_says_what_the_docstrings_say() -> None:
    subprocess.run([sys.executable, ROOT / "tools/reference", "--check"], check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A block of Python that no test runs cannot hide behind another name."""
    for opening in re.findall(r"^```(\w*)$", page.read_text(), re.MULTILINE)[::2]:
        assert opening in ("", "sh", "python", "pycon", "json", "text"), opening
    for block in blocks(page, ""):
        assert ">>>" not in block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
