"""DirtyPages: a round of a device's dirty pages, as a client reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from virtiomem.control.migration.answers import DirtyAnswer
from virtiomem.runs import Run


class DirtyPages:
    """The pages that devices may have written since they were last read. It can be read once.

    Iterating gives runs of bytes from the start of the region, ascending, each of whole pages. The manager is asked for
    some at a time, and takes those as told that came before once it is asked for more, or says that there are no more:
    whoever stops before the end of the loop finds the last ones again in the next round, with those that he was not
    given.

    page_size: bytes of a page. region_size: bytes of the region.
    """

    def __init__(self, ask: Callable[[int | None], DirtyAnswer]) -> None:
        """ask: returns the answer after the one of this number, which that confirms; None: that of a new round."""
        self._ask = ask
        self._answer = ask(None)
        self.page_size = self._answer.page_size
        self.region_size = self._answer.region_size

    def __iter__(self) -> Iterator[Run]:
        while self._answer.runs:
            yield from self._answer.runs
            self._answer = self._ask(self._answer.number)
