"""What is compared: a line of a trace, and what a virtio-mem device shows after it has been played."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from virtiomem import abi
from virtiomem.device import Request, RequestType

Line = Mapping[str, object]
"""A line of a trace, as virtiomem.trace.replay takes it."""

MARKS = 24
"""Of how many blocks the content is watched."""


@dataclass(frozen=True, slots=True)
class Observation:
    """response: None without an answer. broken: DEVICE_NEEDS_RESET. refused: the host's resize was. config: as on the
    wire. content: the first 8 bytes of blocks, by offset in the region, before they are marked.
    """

    response: bytes | None
    broken: bool
    refused: bool
    config: bytes
    content: Mapping[int, int] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, object]:
        """What can differ, by name."""
        config = abi.virtio_mem_config.from_buffer_copy(self.config)
        named = {name: getattr(config, name) for name, *_ in config._fields_ if name != "padding"}
        content = {f"content at {offset:#x}": value for offset, value in self.content.items()}
        response = None if self.response is None else self.response.hex()
        return {"response": response, "broken": self.broken, "refused": self.refused, **named, **content}


class Player(Protocol):
    """A virtio-mem device that plays the lines of a trace."""

    def play(self, line: Line) -> Observation: ...

    def states(self) -> list[bytes | None]:
        """The answers to a STATE request for each block of the usable region."""

    def close(self) -> None: ...


class Marks:
    """Writes a number into each block as it is plugged; what is plugged again must have lost it."""

    def __init__(self, init: Line, read: Callable[[list[int]], list[int]], write: Callable[[int, int], None]) -> None:
        """read, write: 8 bytes at offsets in the region."""
        self._address, self._block_size = integer(init, "addr"), integer(init, "block_size")
        self._read = read
        self._write = write
        self._count = 0
        self._watched: dict[int, None] = {}

    def after(self, line: Line, response: bytes | None) -> Mapping[int, int]:
        """The content of all watched blocks, if line may have changed it; what it plugged is watched and marked."""
        if line["op"] == "system_reset":
            return self._contents()
        if line["op"] != "request" or response is None or response[0]:
            return {}
        request = Request.parse(octets(line), len(response))
        if request.type is RequestType.STATE:
            return {}
        if request.type is not RequestType.PLUG:
            return self._contents()
        first = request.addr - self._address
        plugged = range(first, first + request.nb_blocks * self._block_size, self._block_size)
        plugged = plugged[: MARKS // 2]
        for offset in plugged:
            if len(self._watched) < MARKS:
                self._watched[offset] = None
        found = self._contents()
        for offset in plugged:
            if offset in self._watched:
                self._count += 1
                self._write(offset, self._count)
        return found

    def _contents(self) -> dict[int, int]:
        return dict(zip(self._watched, self._read(list(self._watched)), strict=True))


def integer(line: Line, key: str, default: int | None = None) -> int:
    value = line.get(key, default)
    assert isinstance(value, int)
    return value


def octets(line: Line) -> bytes:
    return bytes.fromhex(str(line["hex"]))


def usable_blocks(config: bytes) -> list[Request]:
    """A STATE request for each block of the usable region."""
    space = abi.virtio_mem_config.from_buffer_copy(config)
    return [
        Request(RequestType.STATE, space.addr + offset, 1)
        for offset in range(0, space.usable_region_size, space.block_size)
    ]
