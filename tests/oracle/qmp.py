"""Qmp: QEMU's control protocol, one JSON object a line. Source: QEMU, docs/interop/qmp-spec."""

from __future__ import annotations

import json
from collections import deque
from typing import TextIO


class QmpError(Exception):
    """QEMU refused a command."""


class Qmp:
    """Commands and events over a connection, which stays the caller's."""

    def __init__(self, connection: TextIO) -> None:
        """Waits until QEMU is up. Raises OSError if it ends instead."""
        self._connection = connection
        self._events: deque[dict[str, object]] = deque()
        self._message()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> object:
        """What the command returns. An underscore in an argument's name stands for a dash. Raises QmpError, OSError."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._connection.write(json.dumps({"execute": command, "arguments": named}) + "\n")
        self._connection.flush()
        while True:
            message = self._message()
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                raise QmpError(f"{command}: {message['error']}")
            else:
                return message["return"]

    def wait_for(self, event: str, *statuses: str) -> None:
        """Until the event has come, with one of these statuses if any are given; forget what came before it."""
        while True:
            message = self._events.popleft() if self._events else self._message()
            data = message.get("data")
            status = data.get("status") if isinstance(data, dict) else None
            if message.get("event") == event and (not statuses or status in statuses):
                return

    def _message(self) -> dict[str, object]:
        line = self._connection.readline()
        if not line:
            raise ConnectionError("QMP: QEMU ended")
        message: object = json.loads(line)
        assert isinstance(message, dict)
        return message
