"""Every example of the README and the docs runs as it stands; a device of the reader's is a simulated one."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from houselib.table import HOUSES, House

import pyvfio.cli
import virtiomem.cli
from pyvfio.sim import PciFunction, SimKernel
from tests.support.pages import PAGES, ROOT, Block, blocks, commands

PROGRAMS = {"pyvfio": pyvfio.cli, "virtiomem": virtiomem.cli}
LANGUAGES = ("console", "json", "pycon", "python", "sh", "text")
BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    "block", [block for block in PYTHON if not block.file and not block.needs], ids=lambda block: block.name
)
def test_example_runs(block: Block) -> None:
    exec(compile(block.text, block.name, "exec"), {"__name__": "example"})


@pytest.mark.parametrize("block", [block for block in PYTHON if block.needs], ids=lambda block: block.name)
def test_example_runs_on_the_machine_it_needs(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its devices are bound to vfio-pci and behind an IOMMU; huge pages are to be had."""
    kernel = SimKernel(host_huge_pages=False)
    for group, address in enumerate(re.findall(r"\b\w{4}:\w\w:\w\w\.\d\b", block.text), 1):
        kernel.add(PciFunction(address, group, driver="vfio-pci"))
    for name, module in [*sys.modules.items()]:
        if name.startswith("pyvfio.") and "sim" not in name and hasattr(module, "LinuxKernel"):
            monkeypatch.setattr(module, "LinuxKernel", lambda: kernel)
    exec(compile(block.text, block.name, "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON if block.file}), ids=named)
def test_files_of_a_page_are_a_project_that_passes(page: Path, pytester: pytest.Pytester) -> None:
    for block in blocks(page):
        if block.language == "python":
            assert block.file, f"{block.name} is beside files, and none itself"
            pytester.path.joinpath(block.file).write_text(block.text)
    result = pytester.runpytest_inprocess("-q", "--strict-markers", "-W", "error", "-p", "no:cacheprovider")
    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"passed"}
    assert outcomes["passed"] >= len(re.findall(r"^def test_", page.read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.language == "pycon"}), ids=named)
def test_sessions_say_what_the_page_says(page: Path) -> None:
    """The blocks of a page are one session: what one defines, the next uses."""
    text = "\n".join(block.text for block in blocks(page) if block.language == "pycon")
    session = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    told: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(session, out=told.append)
    assert results.attempted > 0
    assert not results.failed, "".join(told)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "json"], ids=lambda block: block.name)
def test_data_is_data(block: Block) -> None:
    for line in block.text.splitlines():
        json.loads(line)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=named)
def test_command_lines_make_sense(page: Path) -> None:
    """Those too that need a machine: each command and each option is there."""
    for program, *words in commands(page):
        module = PROGRAMS[program]
        parser = module.Program(program, "", module.COMMANDS).parser
        parser.parse_args(words)


def test_the_reference_says_what_the_docstrings_say() -> None:
    subprocess.run([sys.executable, ROOT / "tools/reference", "--check"], check=True)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_says_what_it_is(page: Path) -> None:
    """Nothing that could be run hides behind another name."""
    fences = re.findall(r"^```", page.read_text(), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page))
    for block in blocks(page):
        assert block.language in LANGUAGES, block.name
        assert (">>> " in block.text) == (block.language == "pycon"), block.name
        assert (re.search(r"^\$ ", block.text, re.MULTILINE) is not None) == (block.language == "console"), block.name


def test_every_folder_of_tests_is_explained() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith("__")}
    page = (ROOT / "tests/README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE)) == folders


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: house.name)
def test_every_floor_of_the_house_is_explained(house: House) -> None:
    """docs/design.md has the floors of the table that tools/house checks, in their order."""
    page = (ROOT / "docs/design.md").read_text()
    rows = page.split(f"| `{house.name}` | |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert [" ".join(re.findall(r"`(\w+)`", row.split("|")[1])) for row in rows] == [*house.floors]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
