"""Migration states of a simulated device. Source: drivers/vfio/vfio_main.c, vfio_mig_get_next_state."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

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
from pyvfio.sim.process.user import UserMemory, fail

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


class MigrationFile:
    """What a descriptor of a state's stream reads, or is written. precopy: the device still runs, and may change;
    flags: what its VFIO_MIG_GET_PRECOPY_INFO tells beside the sizes."""

    def __init__(self, content: bytes, *, precopy: bool = False, flags: int = 0) -> None:
        self.content = bytearray(content)
        self.precopy = precopy
        self._flags = flags
        self._position = 0
        self._is_over = False

    def end(self) -> None:
        """The device has left the states it is for."""
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


class SimMigration:
    """A device whose whole state is the bytes that save gives and load takes (ValueError: refuses).

    precopy: whether it can be read while it runs. p2p: whether it has states in which it runs but begins nothing.
    precopy_flags: VFIO_PRECOPY_INFO_*, for who asks to be told flags.
    """

    def __init__(
        self, save: Callable[[], bytes], load: Callable[[bytes], None], *, precopy: bool = True, p2p: bool = False
    ) -> None:
        self.flags = VFIO_MIGRATION_STOP_COPY
        self.flags |= VFIO_MIGRATION_PRE_COPY if precopy else 0
        self.flags |= VFIO_MIGRATION_P2P if p2p else 0
        self._steps = _STEPS_WITH_P2P if p2p else _STEPS
        self.state = VFIO_DEVICE_STATE_RUNNING
        self.precopy_flags = 0
        self.tells_precopy_flags = False
        self._save = save
        self._load = load
        self._file: MigrationFile | None = None

    @property
    def length(self) -> int:
        return len(self._save())

    def reset(self) -> None:
        self.state = VFIO_DEVICE_STATE_RUNNING
        self._end_stream()

    def enter(self, target: int) -> MigrationFile | None:
        """The stream that the last step began, if it began one. Raises OSError as the kernel does."""
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
        """The states to go through, the shortest way."""
        ways = [[self.state]]
        for way in ways:
            if way[-1] == target:
                return way[1:]
            # Nothing that was saved while stopped can be gone on with.
            if target not in _PRECOPY_STATES or VFIO_DEVICE_STATE_STOP_COPY not in way:
                ways += [[*way, new] for old, new in self._steps if old == way[-1] and new not in way]
        raise fail(errno.EINVAL)

    def _step(self, state: int) -> MigrationFile | None:
        """The stream that begins with state."""
        before, file = self.state, self._file
        if before in _PRECOPY_STATES and state in _SAVING_STATES and file is not None:
            if state == VFIO_DEVICE_STATE_STOP_COPY:
                # The same stream goes on: what has changed, and then it ends.
                file.content += self._save()
                file.precopy = False
            return None
        self._file = None
        if before == VFIO_DEVICE_STATE_RESUMING and file is not None:
            try:
                self._load(bytes(file.content[-self.length :]))
            except ValueError:
                self.state = VFIO_DEVICE_STATE_ERROR
                raise fail(errno.EINVAL) from None
        if file is not None:
            file.end()
        if state in _SAVING_STATES:
            flags = self.precopy_flags if self.tells_precopy_flags else 0
            self._file = MigrationFile(self._save(), precopy=state in _PRECOPY_STATES, flags=flags)
        elif state == VFIO_DEVICE_STATE_RESUMING:
            self._file = MigrationFile(b"")
        return self._file

    def _end_stream(self) -> None:
        if self._file is not None:
            self._file.end()
        self._file = None
