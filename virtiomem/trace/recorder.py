"""RecordedVirtioMem: a VirtioMem that writes what its guest and its host ask into a trace."""

from __future__ import annotations

import errno
import json
import logging
from typing import TextIO

from pyvfio.errors import InvalidArgument
from virtiomem.device import (
    RESPONSE_SIZE,
    USABLE_EXTENT,
    BusyReason,
    Config,
    DeviceBusy,
    Feature,
    ProtocolViolation,
    Request,
    RequestType,
    Response,
    VirtioMem,
    usable_region_size,
)

_log = logging.getLogger(__name__)


class RecordedVirtioMem(VirtioMem):
    """A VirtioMem that can be recorded. From record() on, each line is written as soon as what it tells is done.

    A replay gives the same answers, except to unplugs that the host refused: a trace has no word for these. A plug that
    the host refused is replayed as one whose first map is refused, whatever it was that failed here. The features in
    the trace are those that were negotiated when the first request came.
    """

    _file: TextIO | None = None
    _mappers = 0
    _waiting: list[str] | None = None
    """Lines from before the first request, while the features are not known yet; None afterwards."""
    _later: list[dict[str, object]] | None = None
    """The lines of resizes since a request has begun; None while none is carried out."""

    def record(self, file: TextIO, *, mappers: int = 1) -> None:
        """Begin a trace in file, which stays the caller's.

        mappers: how many address spaces a replay is to have. When the file cannot be written the trace ends, and the
        log says so. Raises InvalidArgument for a device that a guest has used, or whose usable_extent is not the usual
        one: a trace has no word for these.
        """
        with self._lock:
            config = self.config
            usual = usable_region_size(config.region_size, config.requested_size, config.block_size, USABLE_EXTENT)
            if config.plugged_size or config.usable_region_size != usual:
                raise InvalidArgument(
                    errno.EINVAL,
                    "record",
                    {"plugged size": config.plugged_size, "usable region size": config.usable_region_size},
                    "a trace begins with a device as it is made, with nothing plugged",
                    "Record from the start",
                )
            self._file = file
            self._mappers = mappers
            self._initial = config
            self._waiting = []

    def close(self) -> None:
        with self._lock:
            self._begin()
            self._file = None
        super().close()

    def handle(self, request: bytes, response_size: int = RESPONSE_SIZE) -> bytes:
        line: dict[str, object] = {"op": "request", "hex": request.hex()}
        if response_size != RESPONSE_SIZE:
            line["response_size"] = response_size
        with self._lock:
            self._begin()
            try:
                response = super().handle(request, response_size)
            except ProtocolViolation:
                self._end_request(line)
                raise
            self._end_request(line)
            return response

    def _carry_out(self, request: Request) -> Response:
        try:
            return super()._carry_out(request)
        except DeviceBusy as error:
            if request.type is RequestType.PLUG and error.reason is not BusyReason.MIGRATING and self._mappers:
                cause = error.__cause__
                code = cause.errno if isinstance(cause, OSError) and cause.errno else errno.ENOMEM
                self._write({"op": "refuse_map", "mapper": 0, "nth": 0, "errno": code})
            raise

    def _resize(self, requested_size: int) -> None:
        super()._resize(requested_size)
        line: dict[str, object] = {"op": "resize", "requested_size": requested_size}
        # A request that is being carried out goes by the size of before, and its line comes first.
        if self._later is not None:
            self._later.append(line)
        else:
            self._write(line)

    def _begin_request(self) -> Config:
        with self._live.lock:
            self._later = []
            return super()._begin_request()

    def _end_request(self, line: dict[str, object]) -> None:
        with self._live.lock:
            later, self._later = self._later or (), None
            for each in (line, *later):
                self._write(each)

    def device_reset(self) -> None:
        with self._lock:
            super().device_reset()
            self._write({"op": "device_reset"})

    def system_reset(self) -> None:
        with self._lock:
            try:
                super().system_reset()
            finally:
                self._write({"op": "system_reset"})

    def _set_migrating(self, migrating: bool) -> None:
        super()._set_migrating(migrating)
        self._write({"op": "migrating", "on": migrating})

    def load(self, state: bytes, *, is_resized: bool = False) -> None:
        with self._lock:
            super().load(state, is_resized=is_resized)
            self._write({"op": "load", "hex": state.hex()})

    def _begin(self) -> None:
        """Write the lines that have waited until the features are known: they are known now."""
        if self._file is not None and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            for line in (json.dumps(self._init_line()), *waiting):
                self._append(line)

    def _write(self, line: dict[str, object]) -> None:
        if self._waiting is not None:
            self._waiting.append(json.dumps(line))
        elif self._file is not None:
            self._append(json.dumps(line))

    def _append(self, line: str) -> None:
        if self._file is not None:
            try:
                print(line, file=self._file, flush=True)
            except (OSError, ValueError) as error:
                # A full disk, or a file that its owner has closed, must not harm the guest.
                _log.error("%s: the trace ends here, it cannot be written: %s", self.name, error)
                self._file = None

    def _init_line(self) -> dict[str, object]:
        config = self._initial
        line: dict[str, object] = {
            "op": "init",
            "block_size": config.block_size,
            "addr": config.addr,
            "region_size": config.region_size,
            "requested_size": config.requested_size,
            "features": int(self.negotiated or self.features),
            "mappers": self._mappers,
        }
        if self.features & Feature.ACPI_PXM:
            line["node_id"] = config.node_id
        return line
