"""ControlClient: sends commands to a running manager."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.resource import Resource
from pyvfio.texts import printable
from virtiomem.control.changes import ChangesClient
from virtiomem.control.migration.answers import LARGEST_PART, BegunMigration, DirtyAnswer, of_another_protocol
from virtiomem.control.migration.dirty_pages import DirtyPages
from virtiomem.control.peer import peer_user
from virtiomem.control.protocol import LARGEST_ANSWER, ProtocolError, line_of, read_object
from virtiomem.control.status import DeviceStatus

_CODES: Final = {name: code for code, name in errno.errorcode.items()}


class ControlRefused(OSError):
    """The manager refused a command. errno and message are the manager's own."""

    def __str__(self) -> str:
        return str(self.strerror)


class ControlClient(Resource, ChangesClient):
    """A connection to a manager, for one request at a time. path: of the control socket."""

    def __init__(self, path: Path) -> None:
        """Connect. Raises VfioError if nobody serves path, or if it belongs to another user."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            code = error.errno or errno.EIO
            nobody = code in (errno.ENOENT, errno.ECONNREFUSED)
            raise VfioError(
                code,
                "connect to the manager",
                {"socket": str(path)},
                "no manager runs there" if nobody else "",
                "Start one: virtiomem run" if nobody else "",
            ) from error
        if (owner := peer_user(self._socket)) not in (os.geteuid(), 0):
            self._socket.close()
            meaning = f"user {owner} serves it, and may say what they like"
            raise VfioError(errno.EPERM, "connect to the manager", {"socket": str(path)}, meaning)
        self._answers = self._socket.makefile("rb")
        super().__init__()

    def show(self, *, after: int | None = None, timeout: float = 0.0) -> tuple[int, list[DeviceStatus]]:
        """Return the revision and the state of the devices.

        after: a revision that show() has returned; wait up to timeout seconds until there is a later one. Raises
        ControlRefused, and VfioError if the manager has ended.
        """
        arguments: dict[str, object] = {} if after is None else {"after": after, "timeout": timeout}
        result = self.request("show", **arguments)
        return _revision(result), _devices(result)

    def resize(self, requested_size: int, device: str | None = None) -> DeviceStatus:
        """Ask the guest for requested_size bytes, and return the device's state just after.

        device: its name, where there are several. The guest plugs and unplugs in its own time: show() tells how far it
        is. Raises ControlRefused, and VfioError if the manager has ended.
        """
        arguments: dict[str, object] = {"requested_size": requested_size}
        if device is not None:
            arguments["device"] = device
        return _only("resize", self.request("resize", **arguments))

    def begin_migration(self, device: str | None = None, *, keep: float | None = None) -> BegunMigration:
        """Have no block of a device change from now on, and log what devices write to its memory.

        A guest that plugs or unplugs is answered BUSY. device: its name, where there are several. keep: seconds for
        which the migration goes on after anybody last asked for something of it, a day at most; None: it is this
        connection's, and ends with it. Nothing is dirty at first: the destination gets all that is plugged then, and
        what dirty_pages() tells later. Raises ControlRefused if it migrates already, and VfioError if the manager has
        ended.
        """
        return BegunMigration.from_data(self._migrate("begin", device, **({} if keep is None else {"keep": keep})))

    def dirty_pages(self, device: str | None = None) -> DirtyPages:
        """Begin a round of the pages that devices may have written since they were last read, by DMA alone.

        What the guest itself writes the virtual machine monitor knows, and no device. The union of all address spaces
        is told. Raises ControlRefused if the device does not migrate, and VfioError if the manager has ended; so does
        iterating, too, and when somebody else has begun a round.
        """

        def ask(after: int | None) -> DirtyAnswer:
            more = {} if after is None else {"after": after}
            return DirtyAnswer.from_data(self._migrate("dirty", device, **more))

        return DirtyPages(ask)

    def save_state(self, device: str | None = None) -> bytes:
        """The state of a device that migrates, for load_state() at the destination, without the content of memory.

        Only the requested size can change afterwards. Raises ControlRefused if it does not migrate, and VfioError if
        the manager has ended.
        """
        try:
            return base64.b64decode(str(self._migrate("save", device)["state"]), validate=True)
        except (binascii.Error, KeyError) as error:
            raise of_another_protocol("migrate save") from error

    def load_state(self, state: bytes, device: str | None = None) -> DeviceStatus:
        """Plug the blocks that were plugged where state was saved; return the device's status then.

        The device has the same address, sizes and node, nothing is plugged, and no driver runs that does not know of
        it. The content of memory is to be written afterwards. Raises ControlRefused, with nothing changed, and
        VfioError if the manager has ended.
        """
        result: dict[str, object] = {}
        for offset in range(0, max(len(state), 1), LARGEST_PART):
            part = base64.b64encode(state[offset : offset + LARGEST_PART]).decode()
            result = self._migrate("load", device, size=len(state), offset=offset, data=part)
        return _only("migrate load", result)

    def cancel_migration(self, device: str | None = None) -> None:
        """End the migration of a device, whoever has begun it: its blocks may change again, and nothing is logged.

        Raises ControlRefused if it does not migrate, and VfioError if the manager has ended.
        """
        self._migrate("cancel", device)

    def stop(self) -> None:
        """End the manager, and wait until it has closed everything.

        Raises ControlRefused, and VfioError if the manager has ended already.
        """
        self.request("stop")
        # The manager closes its socket last of all.
        while self._answers.read(4096):
            pass

    def request(self, command: str, **arguments: object) -> dict[str, object]:
        """Send a command of the protocol with its arguments, and return its result.

        Raises ControlRefused, and VfioError if the manager has ended or does not answer in the protocol.
        """
        return self.ask(command, arguments)

    def ask(self, command: str, arguments: Mapping[str, object], descriptors: Sequence[int] = ()) -> dict[str, object]:
        """As request(). descriptors: those that go with it; they stay the caller's, and the manager gets copies."""
        self.require_open()
        try:
            line = line_of({"command": command, **arguments})
            sent = socket.send_fds(self._socket, [line], descriptors) if descriptors else 0
            self._socket.sendall(line[sent:])
            answer = read_object(self._answers, LARGEST_ANSWER)
        except OSError as error:
            raise VfioError(error.errno or errno.EIO, f"ask for {command}", {"socket": str(self.path)}) from error
        except ProtocolError as error:
            raise VfioError(errno.EPROTO, f"ask for {command}", {"socket": str(self.path)}, str(error)) from error
        if answer is None:
            raise VfioError(errno.EPIPE, f"ask for {command}", {"socket": str(self.path)}, "the manager has ended")
        if not answer.get("ok"):
            code = _CODES.get(str(answer.get("errno")), errno.EIO)
            raise ControlRefused(code, printable(str(answer.get("error"))))
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def _migrate(self, action: str, device: str | None, **arguments: object) -> dict[str, object]:
        named = {} if device is None else {"device": device}
        return self.request("migrate", action=action, **named, **arguments)

    def _release(self) -> None:
        self._answers.close()
        self._socket.close()

    def __repr__(self) -> str:
        return f"<ControlClient {self.path}>"


def _revision(result: dict[str, object]) -> int:
    revision = result.get("revision")
    if not isinstance(revision, int):
        raise VfioError(errno.EPROTO, "show", meaning="the manager speaks another protocol")
    return revision


def _only(operation: str, result: dict[str, object]) -> DeviceStatus:
    """The state of the one device that a result has."""
    if len(devices := _devices(result)) != 1:
        raise of_another_protocol(operation)
    return devices[0]


def _devices(result: dict[str, object]) -> list[DeviceStatus]:
    devices = result.get("devices")
    try:
        return [DeviceStatus.from_data(device) for device in devices] if isinstance(devices, Sequence) else []
    except ValueError as error:
        raise VfioError(errno.EPROTO, "show", meaning="the manager speaks another protocol") from error
