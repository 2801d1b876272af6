"""Qtest: QEMU's line protocol for ports and memory as the guest sees them. Source: QEMU, docs/devel/testing/qtest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO


class Qtest:
    """Commands over a connection, which stays the caller's. Numbers are little-endian."""

    def __init__(self, connection: TextIO) -> None:
        self._connection = connection

    def run(self, commands: Sequence[str]) -> list[str]:
        """What each command returns ("" if nothing), after all have been carried out in order. Raises OSError."""
        self._connection.write("".join(f"{command}\n" for command in commands))
        self._connection.flush()
        return [self._answer(command) for command in commands]

    def number(self, command: str) -> int:
        return int(self.run([command])[0], 0)

    def read(self, address: int, size: int) -> bytes:
        return parse_bytes(self.run([read(address, size)])[0])

    def _answer(self, command: str) -> str:
        for line in self._connection:
            # Interrupts are told whenever they happen.
            if not line.startswith("IRQ"):
                state, _, rest = line.strip().partition(" ")
                if state != "OK":
                    raise OSError(f"qtest: {command}: {line.strip()}")
                return rest
        raise ConnectionError(f"qtest: QEMU ended before it answered {command}")


def read(address: int, size: int) -> str:
    return f"read {address:#x} {size:#x}"


def write(address: int, data: bytes) -> str:
    return f"write {address:#x} {len(data):#x} 0x{data.hex()}"


def parse_bytes(answer: str) -> bytes:
    """What a read returns."""
    return bytes.fromhex(answer.removeprefix("0x"))
