"""Migration: the migration states of a device, and its state as a stream. Source: linux/vfio.h; vfio_main.c."""

from __future__ import annotations

import enum
import errno
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.device.features import Feature, Features
from pyvfio.device.open_device import OpenDevice
from pyvfio.errors import FeatureUnsupported, VfioError
from pyvfio.kernel import Descriptor, octets_of
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_CHUNK = 1 << 20


class MigrationKinds(enum.IntFlag):
    """VFIO_MIGRATION_*: which states a device has beyond STOP and RUNNING."""

    STOP_COPY = vfio.VFIO_MIGRATION_STOP_COPY
    P2P = vfio.VFIO_MIGRATION_P2P
    PRE_COPY = vfio.VFIO_MIGRATION_PRE_COPY


class MigrationState(enum.IntEnum):
    """The migration states, VFIO_DEVICE_STATE_*. Only a reset leads out of ERROR."""

    ERROR = vfio.VFIO_DEVICE_STATE_ERROR
    STOP = vfio.VFIO_DEVICE_STATE_STOP
    RUNNING = vfio.VFIO_DEVICE_STATE_RUNNING
    STOP_COPY = vfio.VFIO_DEVICE_STATE_STOP_COPY
    RESUMING = vfio.VFIO_DEVICE_STATE_RESUMING
    RUNNING_P2P = vfio.VFIO_DEVICE_STATE_RUNNING_P2P
    PRE_COPY = vfio.VFIO_DEVICE_STATE_PRE_COPY
    PRE_COPY_P2P = vfio.VFIO_DEVICE_STATE_PRE_COPY_P2P


_PRE_COPY = (MigrationState.PRE_COPY, MigrationState.PRE_COPY_P2P)
_P2P = (MigrationState.RUNNING_P2P, MigrationState.PRE_COPY_P2P)


@dataclass(frozen=True, slots=True)
class PrecopyInfo:
    """How much the stream still has before STOP_COPY. Both numbers are estimates, in bytes.

    initial_bytes: of the first pass. dirty_bytes: of what has changed since it was read. begins_anew: whether the
    device has changed so much that another first pass, of initial_bytes, is ahead; False before Linux 7.0.
    """

    initial_bytes: int
    dirty_bytes: int
    begins_anew: bool = False


class MigrationStream(Resource):
    """The state of a device as bytes: read in PRE_COPY and STOP_COPY, written in RESUMING. A child of the device.

    device: the device. descriptor: the stream's.
    """

    def __init__(self, device: OpenDevice, fd: int) -> None:
        """Take over fd: it is closed with the stream, or here when this fails. Raises ClosedError."""
        self.kernel = device.kernel
        self.device = device
        self.descriptor = Descriptor(fd, f"state of {device.address}", partial(self.kernel.close, fd))
        try:
            super().__init__(device)
        except BaseException:
            self.descriptor.close()
            raise

    @property
    def fd(self) -> int:
        """The number of the descriptor, which is the stream's until it is closed."""
        return self.descriptor.number

    def read(self, size: int = _CHUNK) -> bytes:
        """Read up to size bytes; return b"" at the end.

        In STOP_COPY that is the end of the state, in PRE_COPY the end of what is ready so far. Raises VfioError.
        """
        self.require_open()
        with self.descriptor.in_use() as fd:
            try:
                return self.kernel.read(fd, size)
            except OSError as error:
                # The stream of PRE_COPY has no end: it says that nothing is ready.
                if error.errno == errno.ENOMSG:
                    return b""
                raise VfioError(error.errno or errno.EIO, f"read state of {self.device.address}") from error

    def read_all(self) -> bytes:
        """Read to the end. Raises VfioError."""
        parts = []
        while part := self.read():
            parts.append(part)
        return b"".join(parts)

    def write(self, data: ReadableBuffer) -> None:
        """Write all bytes of data. Raises VfioError for a state that the device does not take."""
        self.require_open()
        view = octets_of(data)
        with self.descriptor.in_use() as fd:
            try:
                while view:
                    view = view[self.kernel.write(fd, bytes(view[:_CHUNK])) :]
            except OSError as error:
                raise VfioError(error.errno or errno.EIO, f"write state of {self.device.address}") from error

    def precopy_info(self) -> PrecopyInfo:
        """How much is left to read in PRE_COPY. Raises VfioError in another state.

        Source: VFIO_MIG_GET_PRECOPY_INFO.
        """
        self.require_open()
        info = vfio.vfio_precopy_info()
        with self.descriptor.in_use() as fd:
            try:
                self.kernel.ioctl(fd, vfio.VFIO_MIG_GET_PRECOPY_INFO, info)
            except OSError as error:
                operation = f"precopy info of {self.device.address}"
                meaning = "the device is not in PRE_COPY, or has no such state"
                raise VfioError(error.errno or errno.EIO, operation, meaning=meaning) from error
        begins_anew = bool(info.flags & vfio.VFIO_PRECOPY_INFO_REINIT)
        return PrecopyInfo(info.initial_bytes, info.dirty_bytes, begins_anew)

    def _release(self) -> None:
        self.descriptor.close()

    def __repr__(self) -> str:
        return f"<MigrationStream of {self.device.address}>"


class Migration:
    """The migration states of a device that has them. Owns nothing: it works as long as its device is open.

    To save a device, enter(STOP_COPY) and read the stream to its end; enter(PRE_COPY) before that to read most of it
    while the device runs. To restore a device, enter(RESUMING), write the stream, and enter(RUNNING). The kernel goes
    through the states between by itself. kinds: which states the device has.
    """

    def __init__(self, features: Features) -> None:
        """features: of the device. Raises FeatureUnsupported for a device that cannot be migrated."""
        self._features = features
        self._device = features.device
        data = features.get(Feature.MIGRATION, vfio.vfio_device_feature_migration)
        self.kinds = MigrationKinds(data.flags)
        if self.kinds & MigrationKinds.PRE_COPY:
            # The kernel tells PrecopyInfo.begins_anew only to programs that ask for it.
            with suppress(FeatureUnsupported):
                features.set(Feature.MIG_PRECOPY_INFOv2)

    @property
    def state(self) -> MigrationState:
        """The state that the device is in. Raises VfioError."""
        data = self._features.get(Feature.MIG_DEVICE_STATE, vfio.vfio_device_feature_mig_state)
        return MigrationState(data.device_state)

    @property
    def stop_copy_length(self) -> int:
        """About how many bytes the stream of STOP_COPY has. Raises VfioError, as always before Linux 6.2."""
        data = self._features.get(Feature.MIG_DATA_SIZE, vfio.vfio_device_feature_mig_data_size)
        return int(data.stop_copy_length)

    def enter(self, state: MigrationState) -> MigrationStream | None:
        """Bring the device into a state; return the stream that the state begins, or None if it begins none.

        Raises VfioError. A failure leaves the device in a state on the way there, which the property state tells.
        """
        data = vfio.vfio_device_feature_mig_state(device_state=state, data_fd=-1)
        try:
            answer = self._features.set(Feature.MIG_DEVICE_STATE, bytes(data))
        except VfioError as error:
            raise self._failure(error, state) from error
        fd = vfio.vfio_device_feature_mig_state.from_buffer_copy(answer).data_fd
        return None if fd < 0 else MigrationStream(self._device, fd)

    def _failure(self, error: VfioError, state: MigrationState) -> VfioError:
        operation = f"migration of {self._device.address} to {state.name}"
        now = self.state
        meaning, advice = f"{error.meaning}; it is in {now.name} now", ""
        if now is MigrationState.ERROR:
            meaning, advice = "the device is in ERROR", "Only a reset leads out: device.reset()"
        elif (state in _PRE_COPY and not self.kinds & MigrationKinds.PRE_COPY) or (
            state in _P2P and not self.kinds & MigrationKinds.P2P
        ):
            meaning = f"the device has no such state; it has {self.kinds!r}"
        elif now is MigrationState.STOP_COPY and state in _PRE_COPY:
            meaning, advice = "there is no way from STOP_COPY to it", "Enter RUNNING first"
        return VfioError(error.errno or errno.EIO, operation, meaning=meaning, advice=advice)
