"""Our side: virtiomem.trace plays the lines, on memory that can be looked into."""

from __future__ import annotations

from tests.oracle.observation import Line, Marks, Observation, usable_blocks
from virtiomem import trace


class OurDevice:
    """A Player. step: what the last line led to."""

    def __init__(self, init: Line) -> None:
        """Raises what the device raises for an init it refuses."""
        self.player = trace.Player(trace.Line(init))
        self.step = self.player.step()
        self._marks = Marks(init, self._read, self._write)

    def play(self, line: Line) -> Observation:
        self.step = self.player.play(trace.Line(line))
        response = None if self.step["response"] is None else bytes.fromhex(self.step["response"])
        return Observation(
            response,
            self.step["broken"],
            line["op"] == "resize" and self.step["error"] is not None,
            bytes.fromhex(self.step["config"]),
            self._marks.after(line, response),
        )

    def states(self) -> list[bytes | None]:
        requests = usable_blocks(bytes(self.player.device.config))
        return [self.play({"op": "request", "hex": bytes(request).hex()}).response for request in requests]

    def close(self) -> None:
        self.player.close()

    def _read(self, offsets: list[int]) -> list[int]:
        return [int.from_bytes(self.player.memory.read(offset, 8), "little") for offset in offsets]

    def _write(self, offset: int, value: int) -> None:
        self.player.memory.write(offset, value.to_bytes(8, "little"))
