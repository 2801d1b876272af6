"""A session of pytest and the worker of its machines: however the worker ends, nobody waits for it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.vm import session
from tests.support.vm.fleet import WORKER, Fleet
from tests.support.vm.worker import Task

TARGET = "built-intel"


@contextmanager
def fleet(*worker: str, target: str = TARGET) -> Iterator[Fleet]:
    with (
        Path(os.devnull).open("w") as null,
        closing(Fleet([Task(target, ["test"], [])], null.fileno(), worker)) as fleet,
    ):
        yield fleet


def trouble(fleet: Fleet, target: str = TARGET) -> str:
    return fleet.sessions[target].wait().trouble


def code(text: str) -> tuple[str, ...]:
    return sys.executable, "-c", f"import os, sys\n{text}"


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"target": "another", "begins": "test"}', "{"])
def test_events_that_cannot_be_understood_end_the_session(text: str) -> None:
    with fleet(*code(f"os.write(int(sys.argv[1]), {text!r}.encode() + b'\\n'); sys.stdin.read()")) as started:
        assert trouble(started).startswith("its process said what cannot be understood")


def test_a_worker_that_dies_ends_the_session() -> None:
    with fleet(*code("os.abort()")) as started:
        assert trouble(started) == "its process ended"


def test_a_worker_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SILENCE", 0.2)
    with fleet(*code("sys.stdin.read()")) as started:
        assert trouble(started) == "its process has said nothing for 0.2 s"


def test_a_fault_of_the_worker_itself_ends_the_task() -> None:
    with fleet(*WORKER, target="no-such-target") as started:
        assert "KeyError('no-such-target')" in trouble(started, "no-such-target")


def test_a_test_that_is_skipped_there_is_skipped_here(request: pytest.FixtureRequest) -> None:
    """pytest ends with an assertion about a skip that has come through JSON, and says nothing of the rest."""
    item = request.node
    where = ("test_there.py", 7, "Skipped: no udev here")
    made = session.Session(Task(TARGET, [item.nodeid], []))
    for when, outcome, reason in (("setup", "skipped", where), ("teardown", "passed", None)):
        report = pytest.TestReport(item.nodeid, item.location, {}, outcome, reason, when)  # type: ignore[arg-type]
        data = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
        made.put(json.loads(json.dumps(data)))
    assert [report.longrepr for report in made.reports(item)] == [where, None]


def test_what_installing_prints_is_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without bc, bison and flex whose cache is empty: tools/setup installs, and apt-get prints."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    for name, text in {
        "id": "echo 0",
        "qemu-system-x86_64": "",
        "apt-get": "echo printed by apt-get\nread line && echo $line\nexit 1",
    }.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    with fleet(*WORKER) as started:
        end = started.sessions[TARGET].wait()
    assert end.trouble == "a kernel cannot be built without what tools/setup kernel names"
    assert end.unavailable
