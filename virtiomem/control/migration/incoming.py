"""IncomingState: a state that a client sends part by part, before it is loaded."""

from __future__ import annotations

import errno

from virtiomem.control.migration.answers import LARGEST_STATE
from virtiomem.control.migration.errors import MigrationRefused


class IncomingState:
    """The parts of a state of size bytes, as far as they have come. Nothing is set aside for what has not.

    client: who sends them.
    """

    def __init__(self, client: object, size: int) -> None:
        """Raises MigrationRefused for a size that no state has."""
        if not 0 < size <= LARGEST_STATE:
            meaning = f"a state has from 1 to {LARGEST_STATE:#_x} bytes"
            raise MigrationRefused(errno.EINVAL, "migrate load", {"size": size}, meaning)
        self.client = client
        self.size = size
        self._data = bytearray()

    @property
    def offset(self) -> int:
        """Where the next part begins."""
        return len(self._data)

    def add(self, offset: int, data: bytes) -> bytes | None:
        """Take the next part; return the state if it is the last one. Raises MigrationRefused, with nothing taken."""
        if offset != self.offset or not data or offset + len(data) > self.size:
            meaning = f"the next part begins at {self.offset:#_x}, and the state ends at {self.size:#_x}"
            arguments = {"offset": offset, "bytes": len(data)}
            raise MigrationRefused(errno.EINVAL, "migrate load", arguments, meaning, "Send it again from offset 0")
        self._data += data
        return bytes(self._data) if self.offset == self.size else None
