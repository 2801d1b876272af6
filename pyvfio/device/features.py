"""Features: what a device can do beyond regions and interrupts. Source: VFIO_DEVICE_FEATURE."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import uuid
from typing import TYPE_CHECKING, TypeVar

from pyvfio.abi import vfio
from pyvfio.device.open_device import OpenDevice
from pyvfio.device.region_info import MmapArea
from pyvfio.errors import FeatureUnsupported, InvalidArgument, VfioError
from pyvfio.explain import no_descriptor
from pyvfio.kernel import EventFd, octets_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

S = TypeVar("S", bound=ctypes.Structure)

_HEAD = ctypes.sizeof(vfio.vfio_device_feature)


class Feature(enum.IntEnum):
    """The features that linux/vfio.h names: VFIO_DEVICE_FEATURE_*."""

    PCI_VF_TOKEN = vfio.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN
    MIGRATION = vfio.VFIO_DEVICE_FEATURE_MIGRATION
    MIG_DEVICE_STATE = vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
    LOW_POWER_ENTRY = vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY
    LOW_POWER_ENTRY_WITH_WAKEUP = vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP
    LOW_POWER_EXIT = vfio.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT
    DMA_LOGGING_START = vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START
    DMA_LOGGING_STOP = vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP
    DMA_LOGGING_REPORT = vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
    MIG_DATA_SIZE = vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
    BUS_MASTER = vfio.VFIO_DEVICE_FEATURE_BUS_MASTER
    DMA_BUF = vfio.VFIO_DEVICE_FEATURE_DMA_BUF
    MIG_PRECOPY_INFOv2 = vfio.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2


class FeatureAccess(enum.IntFlag):
    """What can be done with a feature. No flag is set for a feature that the device does not have."""

    GET = vfio.VFIO_DEVICE_FEATURE_GET
    SET = vfio.VFIO_DEVICE_FEATURE_SET


class Features:
    """The features of one device.

    Every method that uses a feature raises FeatureUnsupported if the device, its driver or the kernel does not have it,
    ClosedError if the device is closed, and else VfioError. device: the device.
    """

    def __init__(self, device: OpenDevice) -> None:
        """Asks the device nothing yet."""
        self.device = device
        self._wakeup: EventFd | None = None

    @property
    def is_asleep(self) -> bool:
        """Whether this process let the host suspend the device: its mapped BARs must not be touched then."""
        return self.device.answering.is_asleep

    def probe(self, feature: Feature | int) -> FeatureAccess:
        """Which operations the device has for a feature; none if it does not have the feature. Changes nothing.

        feature: a Feature, or the number of one that this library does not know. Raises InvalidArgument for a number
        of more than 16 bits.
        """
        access = FeatureAccess(0)
        for operation in FeatureAccess:
            try:
                self._call(feature, vfio.VFIO_DEVICE_FEATURE_PROBE | operation, b"")
            except InvalidArgument:
                raise
            except FeatureUnsupported:
                return FeatureAccess(0)
            except VfioError as error:
                # EINVAL: the device has the feature, but not this operation.
                if error.errno != errno.EINVAL:
                    raise
            else:
                access |= operation
        return access

    def all(self) -> dict[Feature, FeatureAccess]:
        """The features that the device has, of those that this library knows, and their operations."""
        probed = {feature: self.probe(feature) for feature in Feature}
        return {feature: access for feature, access in probed.items() if access}

    def set_vf_token(self, token: uuid.UUID) -> None:
        """Choose the secret that a program must give to open a virtual function of this physical function.

        It is given as Group.open_device(vf_token=...). Source: VFIO_DEVICE_FEATURE_PCI_VF_TOKEN.
        """
        self.set(Feature.PCI_VF_TOKEN, token.bytes)

    def enter_low_power(self) -> None:
        """Let the host suspend the device until exit_low_power(). From Linux 6.1 on.

        Until then each access to a register is a call to the kernel, which wakes the device and lets it sleep again.
        A failure leaves the device awake.
        """
        self._enter_low_power(Feature.LOW_POWER_ENTRY, b"")

    def enter_low_power_with_wakeup(self) -> EventFd:
        """Let the host suspend the device, as enter_low_power() does; return an event that is signalled when something
        wakes it.

        exit_low_power() and closing the device close the event.
        """
        event = EventFd(self.device.kernel, f"wakeup of {self.device.address}", is_owned=True)
        data = vfio.vfio_device_low_power_entry_with_wakeup(wakeup_eventfd=event.fileno())
        try:
            self._enter_low_power(Feature.LOW_POWER_ENTRY_WITH_WAKEUP, bytes(data))
        except BaseException:
            event.close()
            raise
        self._wakeup = event
        return event

    def exit_low_power(self) -> None:
        """Wake the device. Does nothing to a device that is awake."""
        self.set(Feature.LOW_POWER_EXIT)
        self.device.answering.is_asleep = False
        self.release()

    def set_bus_master(self, enabled: bool) -> None:
        """Let a CDX device do DMA, or stop its DMA. For a PCI device see ConfigSpace.enable_bus_master()."""
        op = vfio.VFIO_DEVICE_FEATURE_SET_MASTER if enabled else vfio.VFIO_DEVICE_FEATURE_CLEAR_MASTER
        self.set(Feature.BUS_MASTER, bytes(vfio.vfio_device_feature_bus_master(op=op)))

    def dma_buf(self, region: int, *parts: MmapArea) -> int:
        """A dma-buf of parts of a BAR, which other devices can do DMA to. The caller owns the descriptor.

        region: the index of the BAR. parts: offsets and sizes in bytes, multiples of the page size. From Linux 6.19 on.
        """
        head = vfio.vfio_device_feature_dma_buf(
            region_index=region, open_flags=os.O_CLOEXEC | os.O_RDWR, nr_ranges=len(parts)
        )
        ranges = (vfio.vfio_region_dma_range(offset=part.offset, length=part.size) for part in parts)
        buffer = self._buffer(Feature.DMA_BUF, vfio.VFIO_DEVICE_FEATURE_GET, bytes(head) + b"".join(map(bytes, ranges)))
        return self._ioctl(Feature.DMA_BUF, buffer)

    def get(self, feature: Feature | int, struct: type[S], data: bytes = b"") -> S:
        """Get a feature's data, which is of type struct. data: what the struct holds before, if the kernel reads it."""
        payload = data or bytes(ctypes.sizeof(struct))
        return struct.from_buffer_copy(self._call(feature, vfio.VFIO_DEVICE_FEATURE_GET, payload))

    def set(self, feature: Feature | int, data: ReadableBuffer = b"") -> bytes:
        """Set a feature. data: the bytes of its struct; return the bytes of the struct after the call."""
        return self._call(feature, vfio.VFIO_DEVICE_FEATURE_SET, bytes(octets_of(data)))

    def release(self) -> None:
        """Close the wakeup event, if there is one. Closing the device calls it."""
        if self._wakeup is not None:
            self._wakeup.close()
            self._wakeup = None

    def _enter_low_power(self, feature: Feature, data: bytes) -> None:
        was_asleep = self.device.answering.is_asleep
        # First, so that nobody touches a mapping that is gone already.
        self.device.answering.is_asleep = True
        try:
            self.set(feature, data)
        except BaseException:
            self.device.answering.is_asleep = was_asleep
            raise

    def _call(self, feature: Feature | int, operation: int, data: bytes) -> bytes:
        buffer = self._buffer(feature, operation, data)
        self._ioctl(feature, buffer)
        return buffer.raw[_HEAD : _HEAD + len(data)]

    @staticmethod
    def _buffer(feature: Feature | int, operation: int, data: bytes) -> ctypes.Array[ctypes.c_char]:
        if not 0 <= feature <= vfio.VFIO_DEVICE_FEATURE_MASK:
            raise InvalidArgument(errno.EINVAL, "device feature", {"feature": int(feature)}, "a number of 16 bits")
        head = vfio.vfio_device_feature(argsz=_HEAD + len(data), flags=operation | int(feature))
        return ctypes.create_string_buffer(bytes(head) + data, _HEAD + len(data))

    def _ioctl(self, feature: Feature | int, buffer: ctypes.Array[ctypes.c_char]) -> int:
        device = self.device
        device.require_open()
        with device.descriptor.in_use() as fd:
            try:
                return device.kernel.ioctl(fd, vfio.VFIO_DEVICE_FEATURE, buffer)
            except OSError as error:
                code = error.errno or errno.EIO
                name = feature.name if isinstance(feature, Feature) else f"{feature:#x}"
                operation = f"feature {name} of {device.address}"
                if code == errno.ENOTTY:
                    meaning = "the device, its driver or this kernel does not have it"
                    raise FeatureUnsupported(code, operation, meaning=meaning) from error
                raise VfioError(code, operation, {}, *no_descriptor(code) or ()) from error
