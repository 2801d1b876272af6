"""What goes between the machine and its guest."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping

Output = Callable[[bytes], None]

CONSOLE = "console"
PORTS = ("stdout", "stderr", "reports", "dmesg", "status", "alive")
"""/dev/vm-NAME in the guest. alive carries nothing: it closes when the host is gone, and the guest ends itself."""


class Ports:
    """A socket to QEMU for each of PORTS and for the serial console, and a thread that reads it."""

    def __init__(self, outputs: Mapping[str, Output]) -> None:
        """outputs: who gets what comes from which port, as it comes, from a thread of the port's own."""
        self._outputs = outputs
        self._received = {name: bytearray() for name in (CONSOLE, *PORTS)}
        self._pairs = {name: socket.socketpair() for name in self._received}
        self._threads = [
            threading.Thread(target=self._read, args=(name, ours), daemon=True)
            for name, (ours, _) in self._pairs.items()
        ]

    @property
    def fds(self) -> list[int]:
        """QEMU's ends, which it must inherit."""
        return [theirs.fileno() for _, theirs in self._pairs.values()]

    def arguments(self) -> list[str]:
        """QEMU's."""
        arguments = ["-device", "virtio-serial-pci", "-serial", f"chardev:{CONSOLE}"]
        for name, fd in zip(self._pairs, self.fds, strict=True):
            arguments += ["-chardev", f"socket,id={name},fd={fd}"]
        for name in PORTS:
            arguments += ["-device", f"virtserialport,chardev={name},name={name}"]
        return arguments

    def start(self) -> None:
        """Once QEMU has its ends."""
        for _, theirs in self._pairs.values():
            theirs.close()
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Once QEMU has ended: everything has come when this returns."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        for ours, theirs in self._pairs.values():
            ours.close()
            theirs.close()

    def received(self, name: str) -> bytes:
        """All that has come from a port, whoever else got it."""
        return bytes(self._received[name])

    def _read(self, name: str, source: socket.socket) -> None:
        while data := _receive(source):
            self._received[name] += data
            if output := self._outputs.get(name):
                output(data)


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except ConnectionResetError:
        return b""
