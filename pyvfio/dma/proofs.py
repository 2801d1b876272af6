"""Proofs: what the kernel has mapped, where its answers do not say or cannot be true."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from pyvfio.dma.address_space import MappedRun
from pyvfio.dma.mapping_table import MappingTable
from pyvfio.errors import VfioError
from pyvfio.explain import is_refusal


class Proofs:
    """Finds out what the kernel has of what a table lists, by asking it to map that again: EEXIST proves that something
    is there, and success that nothing was. Called with the lock of the address space held."""

    def __init__(
        self, table: MappingTable, map_single: Callable[[MappedRun], None], unmap_single: Callable[[int, int], int]
    ) -> None:
        """map_single: makes one mapping, and raises OSError as the kernel does. unmap_single: unmaps one, and returns
        how many bytes the kernel says were; raises VfioError for a refusal. Neither changes the table."""
        self._table = table
        self._map_single = map_single
        self._unmap_single = unmap_single

    def confirm(self, iova: int, size: int) -> int:
        """Have the kernel map all that is in doubt in the range; return how many bytes had gone, and are mapped again.

        What it refuses with anything but EEXIST stays in doubt, as does all that comes after that.
        """
        restored = 0
        for part in [single for run in self._table.doubted(iova, size) for single in run.single_mappings()]:
            try:
                self._map_single(part)
                restored += part.size
            except OSError as error:
                if not isinstance(error, VfioError) and not is_refusal(error):
                    raise
                if error.errno != errno.EEXIST:
                    break
            self._table.trust(part.iova, part.size)
        return restored

    def settle(self, iova: int, size: int, parts: Sequence[MappedRun]) -> VfioError | None:
        """Take out of the table what of the range is gone, after a call that unmapped another number of bytes than
        expected: all but those mappings of parts that the kernel still has, or may have. Each is unmapped by itself.

        Returns the first failure on the way.
        """
        refused: list[MappedRun] = []
        silent: list[MappedRun] = []
        failure: VfioError | None = None
        for part in [single for run in parts for single in run.single_mappings()]:
            try:
                answer = self._unmap_single(part.iova, part.size)
            except VfioError as error:
                failure = failure or error
                refused.append(part)
                continue
            if answer == part.size:
                self._table.remove(part.iova, part.size)
            else:
                silent.append(part)
        # That the kernel has nothing there is not believed for the asking, nor because its answers add up.
        held = [part for part in silent if not self._is_gone(part)]
        kept = sorted(refused + held, key=lambda part: part.iova)
        for start, end in zip(
            [iova, *(part.end for part in kept)], [*(part.iova for part in kept), iova + size], strict=True
        ):
            if start < end:
                self._table.remove(start, end - start)
        return failure

    def _is_gone(self, part: MappedRun) -> bool:
        """Whether the kernel has certainly nothing at the addresses of a mapping: it maps it again, and says so when
        that is undone. EEXIST proves that something is there; any other refusal proves nothing."""
        try:
            self._map_single(part)
        except OSError as error:
            if not isinstance(error, VfioError) and not is_refusal(error):
                raise
            return False
        try:
            return self._unmap_single(part.iova, part.size) == part.size
        except VfioError:
            return False
