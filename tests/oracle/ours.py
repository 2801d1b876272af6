"""Our side: virtiomem.trace plays the lines, on memory that can be looked into."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pyvfio.address_space import AddressSpace
from pyvfio.memory import Memory, MemoryKind
from tests.oracle.observation import Line, Marks, Observation, usable_blocks
from virtiomem import trace


class OurDevice:
    """A Player."""

    def __init__(self, init: Line) -> None:
        """Raises what the device raises for an init it refuses."""
        self._host = _Host()
        self._line: Line = init
        self._steps = trace.replay(self._lines(), self._host)
        self.step = next(self._steps)
        self._marks = Marks(init, self._read, self._write)

    def play(self, line: Line) -> Observation:
        self.step = self._play(line)
        response = None if self.step["response"] is None else bytes.fromhex(self.step["response"])
        return Observation(
            response,
            self.step["broken"],
            line["op"] == "resize" and self.step["error"] is not None,
            bytes.fromhex(self.step["config"]),
            self._marks.after(line, response),
        )

    def states(self) -> list[bytes | None]:
        answers = []
        for request in usable_blocks(bytes.fromhex(self.step["config"])):
            response = self._play({"op": "request", "hex": bytes(request).hex()})["response"]
            answers.append(None if response is None else bytes.fromhex(response))
        return answers

    def close(self) -> None:
        self._steps.close()

    def _play(self, line: Line) -> trace.Step:
        self._line = line
        return next(self._steps)

    def _lines(self) -> Iterator[str]:
        while True:
            yield json.dumps(self._line)

    def _read(self, offsets: list[int]) -> list[int]:
        return [int.from_bytes(self._host.allocated.read(offset, 8), "little") for offset in offsets]

    def _write(self, offset: int, value: int) -> None:
        self._host.allocated.write(offset, value.to_bytes(8, "little"))


class _Host(trace.RecordingHost):
    """A TraceHost that keeps hold of the memory."""

    allocated: Memory

    def memory(self, size: int) -> Memory:
        self.allocated = Memory.allocate(MemoryKind.ANONYMOUS, size)
        return self.allocated

    def address_space(self, mapper: int, log: trace.DmaLog) -> AddressSpace:
        return trace.RecordingAddressSpace(mapper, log)
