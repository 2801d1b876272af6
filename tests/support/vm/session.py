"""A session of pytest in a machine, as it is seen from here."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import pytest

from tests.support.vm.worker import HEARTBEAT, End, Task

SILENCE = 15 * HEARTBEAT
"""Seconds without a word of the worker, which says every HEARTBEAT seconds that it is there, until it is given up."""


def ended(trouble: str) -> dict[str, object]:
    """The event that ends a session because of something that is not of its machine."""
    return {"end": {"trouble": trouble, "unavailable": False, "output": "", "took": {}}}


class Session:
    """Takes events from the worker's reader, gives reports to pytest."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._events: queue.Queue[Mapping[str, object]] = queue.Queue()
        self._reports: dict[str, list[Mapping[str, object]]] = {test: [] for test in task.tests}
        self._running: object = None
        self._end: End | None = None
        self._blamed = False

    def put(self, event: Mapping[str, object]) -> None:
        self._events.put(event)

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """The reports of one test, waiting for the machine to make them."""
        reports = self._reports[item.nodeid]
        while not (complete := _complete(reports)) and self._end is None:
            self._next()
        for data in reports:
            report = item.config.hook.pytest_report_from_serializable(config=item.config, data=dict(data))
            assert isinstance(report, pytest.TestReport)
            where: object = report.longrepr
            if isinstance(where, list):
                # A test was skipped: pytest wants the tuple, which JSON knows nothing of.
                report.longrepr = tuple(where)
            yield report
        if not complete and self._end is not None:
            yield self._missing(item, self._end)

    def wait(self) -> End:
        """What the machine left, waiting for its end."""
        while self._end is None:
            self._next()
        return self._end

    def summary(self) -> str:
        """How long it took, and for what."""
        # A machine that has done its work takes a moment to end; one that has not is not waited for.
        patience = 10 if all(map(_complete, self._reports.values())) else 0
        with suppress(queue.Empty):
            while self._end is None:
                self._take(self._events.get(timeout=patience))
        took = self._end.took if self._end else {}
        spans = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in took.items() if seconds >= 0.5)
        return f"{self._task.target:<20} {len(self._reports):>4} tests: {spans or 'not ended'}"

    def _next(self) -> None:
        try:
            self._take(self._events.get(timeout=SILENCE))
        except queue.Empty:
            self._take(ended(f"its process has said nothing for {SILENCE} s"))

    def _take(self, event: Mapping[str, object]) -> None:
        match event:
            case {"end": dict(end)}:
                self._end = End(**end)
            case {"begins": test}:
                self._running = test
            case {"nodeid": str(test)}:
                self._reports[test].append(event)

    def _missing(self, item: pytest.Item, end: End) -> pytest.TestReport:
        """For a test that the machine did not finish: all there is to know for the first, less for those after it."""
        if end.unavailable and not os.environ.get("CI"):
            path, line, _ = item.location
            where = (path, line or 0, f"Skipped: no real kernel: {end.trouble}")
            return pytest.TestReport(item.nodeid, item.location, dict(item.keywords), "skipped", where, "setup")
        when = "during this test" if self._running == item.nodeid else "before this test"
        text = f"the machine ended {when}: {end.trouble}"
        text = text.splitlines()[0] if self._blamed else f"{text}\n{end.output}"
        self._blamed = True
        return pytest.TestReport(item.nodeid, item.location, dict(item.keywords), "failed", text, "call")


def _complete(reports: Sequence[Mapping[str, object]]) -> bool:
    """Whether the reports of a test are all there."""
    return any(data["when"] == "teardown" for data in reports)
