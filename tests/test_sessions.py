"""The console sessions of the README and the docs, on the simulated kernel: what the page says is what is printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyvfio.cli
import virtiomem.cli
from pyvfio import MemoryKind
from pyvfio.host import Host
from pyvfio.host.rules import RuleDirectories
from pyvfio.sim import PciFunction, SimKernel
from tests.support.pages import PAGES, Block, blocks
from tests.support.virtiomem.managers import running

SESSIONS = [block for page in PAGES for block in blocks(page) if block.language == "console" and not block.needs]
# What one run has otherwise than another: how long it took, how fast it was, how far the exercise had come.
VARIES = re.compile(r"\d[\d.]*(?= (?:s|min|h|GB/s|transfers|bytes verified by|bytes verified, \d+ raced|raced)\b)")
UNITS = re.compile(r"(?<=N )(?:s|min|h)\b")
# The pages' host: its limits are not those of the one that runs the tests.
LIMITS = ["--mappings", "65535", "--memlock", "unlimited"]

Shell = Callable[[str], list[str]]


@pytest.fixture
def shell(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Shell]:
    """Two devices without a driver, at the addresses of the pages, and a manager of 1 GiB that runs with two others."""
    kernel = SimKernel()
    for number in (3, 4):
        kernel.add(PciFunction(f"0000:00:{number:02x}.0", group=number))
    rules = RuleDirectories(tmp_path / "run", tmp_path / "etc", lambda: None)
    host, socket = Host(kernel=kernel, undo_file=tmp_path / "undo.json", rules=rules), tmp_path / "vm0.sock"

    def run(line: str) -> list[str]:
        program, command, *words = shlex.split(line)
        if program == "pyvfio":
            assert pyvfio.cli.main([command, *words], host) == 0
        elif command in ("migrate", "resize", "show", "stats"):
            assert virtiomem.cli.main([command, *words, "--socket", str(socket)]) == 0
        else:
            virtiomem.cli.main([command, *words, *(LIMITS if command == "plan" else [])])
        return capsys.readouterr().out.splitlines()

    block: Block = request.node.callspec.params["block"]
    if "virtiomem resize" not in "".join((block.text, *block.before)):
        yield run
        return
    with running(socket, region_size=1 << 30, memory_kind=MemoryKind.MEMFD, exercise=True):
        yield run


@pytest.mark.parametrize("block", SESSIONS, ids=lambda block: block.name)
def test_a_session_prints_what_the_page_says(block: Block, shell: Shell) -> None:
    """A page may leave out the end of what a command prints, and nothing else."""
    for command in block.before:
        shell(command)
    for command, said in block.session():
        printed = shell(command)
        assert [plain(line) for line in said] == [plain(line) for line in printed[: len(said)]], command


def plain(line: str) -> str:
    """The line without what varies."""
    return UNITS.sub("TIME", VARIES.sub("N", line)).rstrip()
