"""The features of a simulated device. Source: vfio_main.c, vfio_ioctl_device_feature; pci/vfio_pci_core.c."""

from __future__ import annotations

import errno
import os
import struct
import uuid
from dataclasses import dataclass, field

from pyvfio.abi import vfio
from pyvfio.sim.devices import Model
from pyvfio.sim.iommu import Version
from pyvfio.sim.process import UserMemory, fail, hold_eventfd
from pyvfio.sim.vfio.dma_buf import HEAD, export
from pyvfio.sim.vfio.dma_log import DmaLog
from pyvfio.sim.vfio.migration import MigrationStates

_GET, _SET, _PROBE = (
    vfio.VFIO_DEVICE_FEATURE_GET,
    vfio.VFIO_DEVICE_FEATURE_SET,
    vfio.VFIO_DEVICE_FEATURE_PROBE,
)
_HEAD = 8
_LOW_POWER = (
    vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
    vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    vfio.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
)
# Feature: operations, size of its data.
_LOGGING = {
    vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START: (_SET, 24),
    vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: (_SET, 0),
    vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: (_GET, 32),
}
_MIGRATION = {
    vfio.VFIO_DEVICE_FEATURE_MIGRATION: (_GET, 8),
    vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: (_GET | _SET, 8),
    vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: (_GET, 8),
}


@dataclass(slots=True)
class VfToken:
    """16 bytes that open the virtual functions of a physical one. Nobody knows them at first (vfio_pci_vf_init)."""

    value: bytes = field(default_factory=lambda: uuid.uuid4().bytes)


class FeatureState:
    """The features of one device while it is open."""

    def __init__(
        self, model: Model, version: Version, *, logs_dma: bool, is_pci: bool, vf_token: VfToken | None
    ) -> None:
        """logs_dma: it can note what it writes. vf_token: of a physical function that has virtual ones, else None."""
        self.vf_token = vf_token
        self.dma_log = DmaLog()
        self.migration = None if model.migration is None else MigrationStates(model.migration)
        self._model = model
        self._is_asleep = False
        self._wakeup: int | None = None
        self._offered: dict[int, tuple[int, int]] = {}
        if is_pci and version >= (6, 1):
            self._offered |= dict.fromkeys(_LOW_POWER, (_SET, 0))
            self._offered[vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP] = (_SET, 8)
        if vf_token is not None:
            self._offered[vfio.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN] = (_SET, 16)
        has_precopy = False
        if self.migration is not None:
            self._offered |= _MIGRATION
            has_precopy = bool(self.migration.flags & vfio.VFIO_MIGRATION_PRE_COPY)
        if version >= (7, 0):
            # A device without PRE_COPY has the feature too, but nothing can be done with it.
            self._offered[vfio.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2] = (_SET if has_precopy else 0, 0)
        if logs_dma:
            self._offered |= _LOGGING
        if version >= (6, 19):
            self._offered[vfio.VFIO_DEVICE_FEATURE_DMA_BUF] = (_GET, HEAD.size)

    def ioctl(self, user: UserMemory) -> int:
        argsz, flags = struct.unpack("<II", user.read(_HEAD))
        feature, operation = flags & vfio.VFIO_DEVICE_FEATURE_MASK, flags & (_GET | _SET)
        if argsz < _HEAD or flags & ~(vfio.VFIO_DEVICE_FEATURE_MASK | _GET | _SET | _PROBE):
            raise fail(errno.EINVAL)
        if operation == _GET | _SET and not flags & _PROBE:
            raise fail(errno.EINVAL)
        if feature not in self._offered:
            raise fail(errno.ENOTTY)
        supported, size = self._offered[feature]
        if operation & ~supported:
            raise fail(errno.EINVAL)
        if flags & _PROBE:
            return 0
        if not operation or argsz - _HEAD < size:
            raise fail(errno.EINVAL)
        if feature == vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
            self.dma_log.report(user.read(size, _HEAD))
        elif feature == vfio.VFIO_DEVICE_FEATURE_DMA_BUF:
            return export(self._model, user, _HEAD)
        elif operation == _GET:
            user.write(self._get(feature), _HEAD)
        else:
            self._set(feature, user, user.read(size, _HEAD))
        return 0

    def release(self) -> None:
        """The last descriptor of the device is closed."""
        self._wake()
        self.dma_log.stop()

    def _get(self, feature: int) -> bytes:
        migration = self.migration
        assert migration is not None
        match feature:
            case vfio.VFIO_DEVICE_FEATURE_MIGRATION:
                return struct.pack("<Q", migration.flags)
            case vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
                return struct.pack("<Q", migration.length)
            case _:
                return struct.pack("<Ii", migration.state, -1)

    def _set(self, feature: int, user: UserMemory, data: bytes) -> None:
        match feature:
            case vfio.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN:
                assert self.vf_token is not None
                self.vf_token.value = data
            case vfio.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT:
                self._wake()
            case vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
                self.dma_log.start(data)
            case vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
                self.dma_log.stop()
            case vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
                self._set_migration_state(user, data)
            case vfio.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2:
                assert self.migration is not None
                self.migration.tells_precopy_flags = True
            case _:
                self._sleep(data)

    def _set_migration_state(self, user: UserMemory, data: bytes) -> None:
        migration = self.migration
        assert migration is not None
        (state,) = struct.unpack_from("<I", data)
        try:
            stream = migration.enter(state)
        except OSError:
            user.write(struct.pack("<Ii", state, -1), _HEAD)
            raise
        user.write(struct.pack("<Ii", state, -1 if stream is None else user.process.install(stream)), _HEAD)

    @property
    def is_asleep(self) -> bool:
        """Whether the program lets the host suspend the device."""
        return self._is_asleep

    def _sleep(self, data: bytes) -> None:
        wakeup = None
        if data:
            # What is reserved is not looked at.
            (fd,) = struct.unpack_from("<i", data)
            if fd < 0:
                raise fail(errno.EINVAL)
            wakeup = hold_eventfd(fd)
        if self._is_asleep:
            if wakeup is not None:
                os.close(wakeup)
            raise fail(errno.EINVAL)
        self._is_asleep, self._wakeup = True, wakeup

    def _wake(self) -> None:
        self._is_asleep = False
        if self._wakeup is not None:
            os.close(self._wakeup)
            self._wakeup = None
