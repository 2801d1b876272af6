"""SessionKeeper: keeps the session of a front end beyond the process, message by message."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from pyvfio.errors import VfioError
from virtiomem.persistence import DescriptorStore, KeptDevice
from virtiomem.vhost_user.session.record import Keep, SessionRecord

_log = logging.getLogger(__package__)


class SessionKeeper:
    """Keeps the session of a device's front end, whose record goes with the device's, and its descriptors in a store.

    One thread uses it. What cannot be kept does not outlive the process; the log says so, and the session goes on.
    """

    def __init__(self, kept: KeptDevice, store: DescriptorStore) -> None:
        """kept: the device's keeper. store: keeps descriptors. Both stay the caller's."""
        self._kept = kept
        self._store = store
        self._record: SessionRecord | None = None
        # The descriptors that are kept, by the objects that own them.
        self._names: list[tuple[object, str]] = []
        # Those of the process before that were copied for a session, which does not use them in its own right yet.
        self._copied: list[str] = []
        self._is_off = not store.is_lasting

    def left(self) -> SessionRecord | None:
        """The session that a process before has left; None if none is, or it cannot be gone on with."""
        if self._is_off or self._kept.session is None:
            return None
        try:
            return SessionRecord.parse(self._kept.session)
        except VfioError as error:
            _log.warning("a front end has to connect again: %s", error)
            return None

    def copy(self, name: str) -> int:
        """A copy, which is the caller's, of the descriptor that is kept under name. Raises VfioError.

        It is used until taken_up(), or end(): what is copied for a session that cannot be gone on with is let go.
        """
        fd = self._store.use(name)
        self._copied.append(name)
        return fd

    def taken_up(self, record: SessionRecord, make: Callable[[Keep], SessionRecord]) -> None:
        """The session of record goes on here, whose record make() makes, and uses its names in its own right."""
        self._record = record
        self.update(make, record.handled)
        self._drop_copied()

    def _drop_copied(self) -> None:
        copied, self._copied = self._copied, []
        for name in copied:
            self._store.drop(name)

    def update(self, make: Callable[[Keep], SessionRecord], handled: tuple[int, str | None] | None = None) -> None:
        """Keep the session as it is, if it has changed. make: makes its record. handled: as that has it."""
        if self._is_off:
            return
        names: list[tuple[object, str]] = []

        def keep(owner: object, fd: int, kind: str) -> str:
            known = next((name for other, name in self._names if other is owner), None)
            name = known or self._store.keep(fd, kind)
            names.append((owner, name))
            return name

        try:
            try:
                record = replace(make(keep), handled=handled)
            finally:
                before, self._names = self._names, names
            if self._record is not None and record == replace(self._record, handled=handled):
                return
            self._kept.keep_session(record.data())
        except VfioError as error:
            self._names = [*before, *(pair for pair in names if pair not in before)]
            self._failed(error)
            return
        self._record = record
        for owner, name in before:
            if not any(owner is other for other, _ in names):
                self._store.drop(name)

    def _failed(self, error: VfioError) -> None:
        _log.warning("the front end would have to connect again after this process: %s", error)
        self.end()
        self._is_off = True

    def end(self) -> None:
        """The front end has gone. Raises nothing."""
        self._drop_copied()
        if self._is_off:
            return
        self._record = None
        try:
            self._kept.keep_session(None)
        except VfioError as error:
            _log.warning("the session of a front end that has gone stays kept: %s", error)
        names, self._names = self._names, []
        for _, name in names:
            self._store.drop(name)
