"""SharedSpace: an address space that others map into as well."""

from __future__ import annotations

from collections.abc import Sequence

from pyvfio.dma.address_space import MappedRun
from pyvfio.dma.mapping_space import MappingSpace
from pyvfio.errors import VfioError


class SharedSpace(MappingSpace):
    """A MappingSpace that unmaps nothing but what was mapped through itself.

    One call to unmap a range with holes would take with it what another process has mapped in a hole: so there is a
    call for each run of mappings. If the kernel refuses one of them, those before it are gone, and the rest is in
    mappings() still.
    """

    def unmap_dma(self, iova: int, size: int) -> int:
        with self._lock:
            spans = _spans(self.mappings_in(iova, size))
            if not spans or self.mapping_cut_by(iova, size):
                # It is refused, in words, and the kernel is not asked.
                return super().unmap_dma(iova, size)
            unmapped = 0
            for start, length in spans:
                unmapped += super().unmap_dma(start, length)
            return unmapped

    def _unmap_all(self) -> int:
        """As MappingSpace has it, with a call for each run. Each is tried; raises the first failure."""
        unmapped, failure = 0, None
        for start, length in _spans(self.mappings()):
            try:
                unmapped += self.unmap_by(self._unmap_ioctl, start, length)
            except VfioError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return unmapped


def _spans(runs: Sequence[MappedRun]) -> list[tuple[int, int]]:
    """The addresses and sizes of maximal ranges without a hole, ascending."""
    spans: list[tuple[int, int]] = []
    for run in runs:
        if spans and sum(spans[-1]) == run.iova:
            spans[-1] = (spans[-1][0], spans[-1][1] + run.size)
        else:
            spans.append((run.iova, run.size))
    return spans
