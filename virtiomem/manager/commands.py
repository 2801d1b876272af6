"""The commands of a control socket that add to a server, and take from it. docs/control.md describes them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pyvfio.errors import DeviceBusy, InvalidArgument, VfioError
from virtiomem.control import (
    ControlCommand,
    DeviceStatus,
    ManagedSpace,
    ProtocolError,
    check_keys,
    check_name,
    flag,
    integer,
    text,
    texts,
)
from virtiomem.manager.defaults import RegionDefaults, RegionRequest
from virtiomem.manager.server import Server
from virtiomem.passthrough import PassedDevice
from virtiomem.spaces import (
    LentType,
    OpenSpace,
    Received,
    SpaceKind,
    SpaceOptions,
    as_received,
    lent_container,
    lent_iommufd,
)

_NUMBERS: Final = {
    "region_size": "region_size",
    "block_size": "block_size",
    "requested_size": "requested_size",
    "address": "address",
    "page_size": "page_size",
    "file_offset": "file_offset",
    "node": "node_id",
}


class ServerCommands:
    """What a client may ask of a Server beyond looking and resizing."""

    def __init__(self, server: Server, name: str, defaults: RegionDefaults, received: Received = as_received) -> None:
        """name: the server's, for devices that are given none. received: as lent_container() has it."""
        self._server = server
        self._name = name
        self._defaults = defaults
        self._received = received
        server.control.offer(
            {
                "spaces": ControlCommand(self._spaces),
                "add-space": ControlCommand(self._add_space, most_descriptors=1),
                "remove-space": ControlCommand(self._remove_space),
                "add-device": ControlCommand(self._add_device),
                "remove-device": ControlCommand(self._remove_device),
                "reset-device": ControlCommand(self._reset_device),
            }
        )

    def _spaces(self, request: dict[str, object], _: list[int]) -> dict[str, object]:
        check_keys(request)
        return {"spaces": [_managed(space, self._server.passed).data() for space in self._server.spaces]}

    def _add_space(self, request: dict[str, object], descriptors: list[int]) -> dict[str, object]:
        kind = SpaceKind(_word(request, "kind", [kind.value for kind in SpaceKind], SpaceKind.CONTAINER))
        space = self._lent(request, kind, descriptors) if descriptors else self._opened(request, kind)
        return {"space": _managed(space, ()).data()}

    def _opened(self, request: dict[str, object], kind: SpaceKind) -> OpenSpace:
        check_keys(request, "kind", "devices", "name")
        if not (devices := texts(request, "devices")):
            raise ProtocolError("an address space has devices, or comes with a descriptor")
        return self._server.add_space(SpaceOptions(devices, kind, _name(request)))

    def _lent(self, request: dict[str, object], kind: SpaceKind, descriptors: list[int]) -> OpenSpace:
        own = {SpaceKind.CONTAINER: "iommu_type", SpaceKind.IOMMUFD: "ioas_id"}[kind]
        check_keys(request, "kind", "name", own)
        name = _name(request) or self._free_name(f"lent-{kind.value}", [space.name for space in self._server.spaces])
        lent_type = LentType(_word(request, "iommu_type", [each.value for each in LentType], LentType.TYPE1V2))
        ioas_id = integer(request, "ioas_id") if request.get("ioas_id") is not None else None
        if ioas_id is not None and not 0 < ioas_id < 1 << 32:
            raise ProtocolError("ioas_id must be the number of an IOAS")

        def opening() -> OpenSpace:
            # Taken over only now: whatever is refused before closes it.
            fd = descriptors.pop()
            if kind is SpaceKind.CONTAINER:
                return lent_container(fd, name, self._server.kernel, lent_type=lent_type, received=self._received)
            return lent_iommufd(fd, name, self._server.kernel, ioas_id=ioas_id, received=self._received)

        return self._server.adopt_space(opening)

    def _remove_space(self, request: dict[str, object], _: list[int]) -> dict[str, object]:
        check_keys(request, "name")
        self._server.remove_space(text(request, "name"))
        return {}

    def _add_device(self, request: dict[str, object], _: list[int]) -> dict[str, object]:
        check_keys(request, "socket", "name", "ring", "record", *_NUMBERS)
        numbers = {_NUMBERS[key]: _size(request, key) for key in _NUMBERS if request.get(key) is not None}
        record = _path(request, "record") if request.get("record") is not None else None
        ring = _word(request, "ring", ["split", "packed"], "packed")
        asked = RegionRequest(
            path=_path(request, "socket"),
            name=_name(request) or None,
            packed=ring == "packed",
            record=record,
            **numbers,
        )
        others = self._server.region_options
        options = self._defaults.options(
            asked,
            self._free_name(self._name, [other.name for other in others]),
            others,
            kernel=self._server.kernel,
            containers=self._server.containers,
            spaces=len(self._server.spaces),
        )
        served = self._server.add_region(options, trace=None if record is None else Path(record))
        return {"devices": [DeviceStatus.of(served.managed).data()]}

    def _remove_device(self, request: dict[str, object], _: list[int]) -> dict[str, object]:
        check_keys(request, "device", "yes")
        self._server.remove_region(text(request, "device"), force=flag(request, "yes"))
        return {}

    def _reset_device(self, request: dict[str, object], _: list[int]) -> dict[str, object]:
        check_keys(request, "device", "yes")
        name = text(request, "device")
        plugged = self._server.region(name).managed.device.plugged_size
        if not flag(request, "yes"):
            raise DeviceBusy(
                errno.EBUSY,
                f"reset {name}",
                {"plugged": plugged},
                "what is in its guest's memory would be lost",
                "Say that this is meant (--yes), if the guest has ended",
            )
        return {"bytes": self._server.reset_region(name)}

    def _free_name(self, stem: str, taken: list[str]) -> str:
        """stem with the first number that makes it a name nobody has."""
        return next(name for number in range(len(taken) + 1) if (name := f"{stem}-{number}") not in taken)


def _managed(space: OpenSpace, passed: Sequence[PassedDevice]) -> ManagedSpace:
    try:
        mappings, left = space.space.mapping_count, space.space.mappings_left
    except VfioError:
        # It is closed: its owner has gone.
        mappings, left = 0, None
    return ManagedSpace(
        name=space.name,
        kind=space.kind.value,
        devices=tuple(device.address for device in space.devices),
        ioas_id=space.ioas_id,
        lent=space.is_lent,
        mappings=mappings,
        mappings_left=left,
        passed=tuple(each.status for each in passed if each.device in space.devices),
    )


def _name(request: dict[str, object]) -> str:
    """The name that request has; empty if it has none. Raises ProtocolError, and InvalidArgument for what is none."""
    if request.get("name") is None:
        return ""
    name = text(request, "name")
    check_name(name)
    return name


def _size(request: dict[str, object], key: str) -> int:
    """The number that request has as key. Raises ProtocolError if it is none, or negative."""
    if (number := integer(request, key)) < 0:
        raise ProtocolError(f"{key} must not be negative")
    return number


def _word(request: dict[str, object], key: str, words: list[str], default: str) -> str:
    """The one of words that request has as key; without it, default. Raises ProtocolError."""
    word = text(request, key, default)
    if word not in words:
        raise ProtocolError(f"{key} must be one of {', '.join(words)}")
    return word


def _path(request: dict[str, object], key: str) -> str:
    """The place that request has as key. Raises ProtocolError, and InvalidArgument for one that depends on who asks."""
    path = text(request, key)
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(
            errno.EINVAL,
            f"{key} {path!r}",
            meaning="the server has another working directory",
            advice="Begin it with /",
        )
    return path
