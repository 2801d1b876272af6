"""Migration: the states of a device, and the streams that carry it.

Source: drivers/vfio/vfio_main.c, vfio_mig_get_next_state.
"""

from __future__ import annotations

import errno
import struct

from pyvfio.abi.vfio import (
    VFIO_DEVICE_STATE_ERROR,
    VFIO_DEVICE_STATE_NR,
    VFIO_DEVICE_STATE_PRE_COPY,
    VFIO_DEVICE_STATE_PRE_COPY_P2P,
    VFIO_DEVICE_STATE_RESUMING,
    VFIO_DEVICE_STATE_RUNNING,
    VFIO_DEVICE_STATE_RUNNING_P2P,
    VFIO_DEVICE_STATE_STOP,
    VFIO_DEVICE_STATE_STOP_COPY,
    VFIO_MIG_GET_PRECOPY_INFO,
    VFIO_MIGRATION_P2P,
    VFIO_MIGRATION_PRE_COPY,
    VFIO_MIGRATION_STOP_COPY,
)
from pyvfio.sim.devices import SimMigration
from pyvfio.sim.process import Stream, UserMemory, fail

# The steps that drivers implement; every other way is made of these. Of two ways as short, the one whose steps come
# first is gone.
_COMMON_STEPS = (
    (VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_STOP_COPY),
    (VFIO_DEVICE_STATE_STOP_COPY, VFIO_DEVICE_STATE_STOP),
    (VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RESUMING),
    (VFIO_DEVICE_STATE_RESUMING, VFIO_DEVICE_STATE_STOP),
    (VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_PRE_COPY),
    (VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_RUNNING),
)
_STEPS = (
    (VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_STOP),
    (VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING),
    *_COMMON_STEPS,
    (VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_STOP_COPY),
)
_STEPS_WITH_P2P = (
    (VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_RUNNING_P2P),
    (VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_RUNNING),
    (VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_STOP),
    (VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING_P2P),
    *_COMMON_STEPS,
    (VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_PRE_COPY_P2P),
    (VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_RUNNING_P2P),
    (VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_PRE_COPY),
    (VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_STOP_COPY),
    (VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_PRE_COPY_P2P),
)
_PRECOPY_STATES = (VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_PRE_COPY_P2P)
_SAVING_STATES = (*_PRECOPY_STATES, VFIO_DEVICE_STATE_STOP_COPY)


class MigrationFile(Stream):
    """The stream of a state: the program reads the device's state from it, or writes it.

    precopy: the device still runs, so that its state may change. flags: what VFIO_MIG_GET_PRECOPY_INFO tells beside the
    sizes.
    """

    def __init__(self, content: bytes, *, precopy: bool = False, flags: int = 0) -> None:
        self.content = bytearray(content)
        self.precopy = precopy
        self._flags = flags
        self._position = 0
        self._is_over = False

    def end(self) -> None:
        """The device has left the states that the stream is for: it gives and takes nothing more."""
        self.precopy, self._is_over = False, True

    def read(self, size: int) -> bytes:
        self._require_device()
        data = bytes(self.content[self._position : self._position + size])
        if not data and self.precopy:
            raise fail(errno.ENOMSG)
        self._position += len(data)
        return data

    def write(self, data: bytes) -> int:
        self._require_device()
        self.content += data
        return len(data)

    def ioctl(self, request: int, user: UserMemory) -> int:
        if request != VFIO_MIG_GET_PRECOPY_INFO:
            raise fail(errno.ENOTTY)
        argsz = user.u32(0)
        if not self.precopy or argsz < 24:
            raise fail(errno.EINVAL)
        user.write(struct.pack("<IIQQ", argsz, self._flags, len(self.content) - self._position, 0))
        return 0

    def _require_device(self) -> None:
        if self._is_over:
            raise fail(errno.ENODEV)


class MigrationStates:
    """The states of one device while it is open. migration: what the device itself can do.

    tells_precopy_flags: whether the program has asked for flags in what it is told of a pre-copy stream.
    """

    def __init__(self, migration: SimMigration) -> None:
        self.flags = VFIO_MIGRATION_STOP_COPY
        self.flags |= VFIO_MIGRATION_PRE_COPY if migration.precopy else 0
        self.flags |= VFIO_MIGRATION_P2P if migration.p2p else 0
        self.state = VFIO_DEVICE_STATE_RUNNING
        self.tells_precopy_flags = False
        self._migration = migration
        self._steps = _STEPS_WITH_P2P if migration.p2p else _STEPS
        self._file: MigrationFile | None = None

    @property
    def length(self) -> int:
        """Bytes of the device's whole state."""
        return len(self._migration.save())

    def reset(self) -> None:
        """The device has been reset: it runs, and its stream has ended."""
        self.state = VFIO_DEVICE_STATE_RUNNING
        self._end_stream()

    def enter(self, target: int) -> MigrationFile | None:
        """Go to a state: the stream that the last step on the way began, if any. Raises OSError as the kernel does."""
        self._check(target)
        stream = None
        for step in self._way(target):
            stream = self._step(step)
            self.state = step
        return stream

    def _check(self, target: int) -> None:
        wanted = {
            VFIO_DEVICE_STATE_PRE_COPY: VFIO_MIGRATION_PRE_COPY,
            VFIO_DEVICE_STATE_RUNNING_P2P: VFIO_MIGRATION_P2P,
            VFIO_DEVICE_STATE_PRE_COPY_P2P: VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY,
        }.get(target, 0)
        is_error = VFIO_DEVICE_STATE_ERROR in (target, self.state)
        if is_error or target >= VFIO_DEVICE_STATE_NR or wanted & ~self.flags:
            raise fail(errno.EINVAL)

    def _way(self, target: int) -> list[int]:
        """The states on the shortest way to target. Raises OSError(EINVAL) if there is no way."""
        ways = [[self.state]]
        for way in ways:
            if way[-1] == target:
                return way[1:]
            # Nothing that was saved while stopped can be gone on with.
            if target not in _PRECOPY_STATES or VFIO_DEVICE_STATE_STOP_COPY not in way:
                ways += [[*way, new] for old, new in self._steps if old == way[-1] and new not in way]
        raise fail(errno.EINVAL)

    def _step(self, state: int) -> MigrationFile | None:
        """Enter a neighbouring state: the stream that begins with it, if one does."""
        before, file = self.state, self._file
        if before in _PRECOPY_STATES and state in _SAVING_STATES and file is not None:
            if state == VFIO_DEVICE_STATE_STOP_COPY:
                # The same stream goes on: what has changed, and then it ends.
                file.content += self._migration.save()
                file.precopy = False
            return None
        self._file = None
        if before == VFIO_DEVICE_STATE_RESUMING and file is not None:
            try:
                self._migration.load(bytes(file.content[-self.length :]))
            except ValueError:
                self.state = VFIO_DEVICE_STATE_ERROR
                raise fail(errno.EINVAL) from None
        if file is not None:
            file.end()
        if state in _SAVING_STATES:
            flags = self._migration.precopy_flags if self.tells_precopy_flags else 0
            self._file = MigrationFile(self._migration.save(), precopy=state in _PRECOPY_STATES, flags=flags)
        elif state == VFIO_DEVICE_STATE_RESUMING:
            self._file = MigrationFile(b"")
        return self._file

    def _end_stream(self) -> None:
        if self._file is not None:
            self._file.end()
        self._file = None
