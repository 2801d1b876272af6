"""The short form of the torture, and runs of its model that once found something."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pyvfio.faults import FalseUnmap, Fault, ShortUnmap
from tests.torture import model, starts, threads
from tests.torture.model import Step
from tests.torture.part import Outcome
from tests.torture.parts import PARTS
from tests.torture.report import PAGE, table, write

STEPS = 20_000 if os.environ.get("CI") else 3_000

# Each is a run that failed, cut down to the steps that it takes.
ONCE_WRONG = {
    "what was in doubt, and is missing for certain now, is told": [
        Step("join", 8, 2),
        Step("plug", 4, 2, (ShortUnmap(size=0),)),
        Step("save_and_load", 6, 1, (Fault(name="ioctl", errno=errno.ENOSPC),)),
        Step("save_and_load", 1, 1, (Fault(1, "ioctl", errno=errno.EBUSY), Fault(0, "madvise", errno=errno.EBUSY))),
    ],
    "a load that can neither be done nor undone keeps what it keeps": [
        Step("plug", 0, 1),
        Step("plug", 2, 3),
        Step("plug", 6, 1),
        Step("join", 11, 24, (FalseUnmap(3, errno=errno.EBUSY),)),
        Step("save_and_load", 2, 0, (ShortUnmap(1, size=model.BLOCK), Fault(3, "madvise", errno=errno.EIO))),
    ],
}


@pytest.mark.parametrize("name", ONCE_WRONG)
def test_what_was_wrong_once_is_right(name: str) -> None:
    assert model.failure(ONCE_WRONG[name]) is None


def test_the_model_and_the_device_agree() -> None:
    assert [each for each in model.campaign(seed=0, count=STEPS) if each] == []


def test_a_run_is_the_same_again() -> None:
    assert model.steps(1, 2) == model.steps(1, 2)
    assert model.steps(1, 2) != model.steps(1, 3)


def test_a_run_that_fails_is_cut_down_to_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.Reference, "acknowledged", lambda *_: None)
    run = model.steps(0, 0)
    assert model.failure(run) is not None
    left = model.shrunk(run)
    assert [step.what for step in left] == ["plug"]


@pytest.mark.parametrize(
    ("run", "count"),
    [(threads.threads, 1), (threads.soak, 5), (starts.two_at_once, 12), (starts.undo_kills, 3)],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_a_part_finds_nothing(run: object, count: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(100)
    assert list(run(count)) == [None] * count  # type: ignore[operator]


def test_the_page_has_a_row_for_each_part() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for part in PARTS:
        assert f"| {part.name} | {part.promise} |" in text


def test_the_report_is_written_into_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")
    outcome = Outcome(PARTS[0], 1_000_000, ("found",), 12.4)
    write([outcome], page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "\nold\n" not in text
    assert "| 1,000,000 steps | 1 | 12 s |" in text
    assert table([outcome]) in text
