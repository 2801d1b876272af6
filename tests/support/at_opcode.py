"""An exception at any bytecode, as from a signal handler."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import CodeType, FrameType
from typing import Any

_TOOL = 4
"""Of sys.monitoring's numbers one that the standard library gives no meaning."""


class AtOpcode:
    """Raises KeyboardInterrupt at the nth bytecode that runs in files of some rooms, while it is entered.

    The interpreter runs a signal handler at fewer places. One of those that it never does is where a with statement
    ends: the lock is not given back then. Locks are reentrant, so the one thread of a test does not notice.

    left: how many more bytecodes would have to run; less than 0 once it has raised.
    """

    def __init__(self, nth: int, rooms: Sequence[str]) -> None:
        """rooms: parts of the paths of those files."""
        self.left = nth
        self._rooms = rooms

    def __enter__(self) -> None:
        # Tracing says less and less of bytecodes since Python 3.12: one in ten on 3.15.
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            monitoring.use_tool_id(_TOOL, "AtOpcode")
            monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, self._instruction)
            monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
        else:
            sys.settrace(self._enter_frame)

    def __exit__(self, *_: object) -> None:
        self._end()
        if sys.version_info >= (3, 12):
            sys.monitoring.register_callback(_TOOL, sys.monitoring.events.INSTRUCTION, None)
            sys.monitoring.free_tool_id(_TOOL)

    def _end(self) -> None:
        if sys.version_info >= (3, 12):
            sys.monitoring.set_events(_TOOL, 0)
        else:
            sys.settrace(None)

    def _count(self, code: CodeType) -> None:
        if any(room in code.co_filename for room in self._rooms):
            self.left -= 1
            if self.left < 0:
                self._end()
                raise KeyboardInterrupt

    def _instruction(self, code: CodeType, _offset: int) -> None:
        self._count(code)

    def _enter_frame(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        if not any(room in frame.f_code.co_filename for room in self._rooms):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._step

    def _step(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self._count(frame.f_code)
        return self._step
