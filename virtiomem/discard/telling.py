"""Telling: calls those who are only told, after a change; what they raise changes nothing any more."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec

_log = logging.getLogger(__package__)
P = ParamSpec("P")


class Telling:
    """Calls functions of other people's after a change is committed, so that their failures cannot undo its answer.

    A function that raises an Exception is logged and counted, and whoever is told next is told. The log has the first
    failure, the second, the fourth, the eighth: a guest can cause any number of them.

    failures: how many calls have failed so far.
    """

    def __init__(self, name: str) -> None:
        """name: who tells, for the log."""
        self._name = name
        self.failures = 0

    def tell(self, function: Callable[P, object], *arguments: P.args, **keywords: P.kwargs) -> None:
        """Call function. It is told of what has happened, so it has no say: what it raises and returns is dropped."""
        try:
            function(*arguments, **keywords)
        except Exception as error:
            self.failures += 1
            if self.failures & (self.failures - 1) == 0:
                what = getattr(function, "__qualname__", repr(function))
                _log.error(
                    "%s: %s failed, %d such failures so far, which change no answer: %s: %s",
                    *(self._name, what, self.failures, type(error).__name__, error),
                    exc_info=error,
                )
