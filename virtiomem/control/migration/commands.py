"""Migrations: the migrate command of a control socket, for all of its devices."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

from pyvfio.texts import shortened
from virtiomem.control.managed import ManagedDevice
from virtiomem.control.migration.shared_logs import SharedLogs
from virtiomem.control.migration.source import MigratingDevice
from virtiomem.control.protocol import ProtocolError, integer
from virtiomem.control.status import DeviceStatus


class Migrations:
    """The devices that are managed, as clients have them migrate. Methods may be called from any thread."""

    def __init__(self, changed: Callable[[], object]) -> None:
        """changed: called when a migration has begun or ended."""
        self._changed = changed
        self._logs = SharedLogs()
        self._devices: dict[str, MigratingDevice] = {}

    def manage(self, managed: ManagedDevice) -> None:
        """Take requests for this device until forget()."""
        self._devices = {**self._devices, managed.name: MigratingDevice(managed, self._logs, self._changed)}

    def forget(self, name: str) -> None:
        """End the migration of the device called name, if it migrates, and take no more requests for it."""
        devices = dict(self._devices)
        gone = devices.pop(name, None)
        self._devices = devices
        if gone is not None:
            gone.close()

    def left(self, client: object) -> None:
        """The client's connection has ended, and with it what was its alone."""
        for device in self._devices.values():
            device.left(client)

    def has_owner(self, client: object) -> bool:
        """Whether a migration would end with this client's connection. It waits for nobody."""
        return any(device.is_owned_by(client) for device in self._devices.values())

    def answer(self, request: dict[str, object], managed: ManagedDevice, client: object) -> dict[str, object]:
        """The result of a request for a device. Raises ProtocolError, and what MigratingDevice raises."""
        device = self._devices.get(managed.name)
        if device is None:
            raise ProtocolError(f"{managed.name} is managed here no more")
        match request.get("action"):
            case "begin":
                return device.begin(client, _keep(request)).data()
            case "dirty":
                after = None if request.get("after") is None else integer(request, "after")
                return device.dirty(after).data()
            case "save":
                state = device.save()
                return {"device": managed.name, "size": len(state), "state": base64.b64encode(state).decode()}
            case "load":
                size = integer(request, "size")
                offset = device.load(client, size, integer(request, "offset"), _bytes(request, "data"))
                return {"offset": offset, "devices": [DeviceStatus.of(managed).data()] if offset == size else []}
            case "cancel":
                device.cancel()
                return {"device": managed.name}
            case other:
                raise ProtocolError(f"action is {shortened(other)}, and must be begin, dirty, save, load or cancel")


def _keep(request: dict[str, object]) -> float | None:
    value = request.get("keep")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 64:
        raise ProtocolError("keep must be seconds")
    return float(value)


def _bytes(request: dict[str, object], key: str) -> bytes:
    value = request.get(key)
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise ProtocolError(f"{key} must be bytes in base64")
