"""Interrupts: the INTx, MSI, MSI-X, error and request interrupts of a device, as eventfds."""

from __future__ import annotations

import ctypes
import enum
import errno
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pyvfio.abi import vfio
from pyvfio.device.open_device import DeviceFlags, DevicePart, OpenDevice
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.kernel import EventFd, wait_for_any
from pyvfio.resource import opened

_DETACH = -1


class InterruptIndex(enum.IntEnum):
    """The kinds of interrupts that a PCI device has: VFIO_PCI_*_IRQ_INDEX.

    ERR: the device has reported an uncorrectable error. REQ: the host wants the device back.
    """

    INTX = vfio.VFIO_PCI_INTX_IRQ_INDEX
    MSI = vfio.VFIO_PCI_MSI_IRQ_INDEX
    MSIX = vfio.VFIO_PCI_MSIX_IRQ_INDEX
    ERR = vfio.VFIO_PCI_ERR_IRQ_INDEX
    REQ = vfio.VFIO_PCI_REQ_IRQ_INDEX


_SINGLE = frozenset({InterruptIndex.ERR, InterruptIndex.REQ})
"""Those of a PCI device that are their one vector: without it nothing is left that could be disabled."""
_EXCLUSIVE = frozenset({InterruptIndex.INTX, InterruptIndex.MSI, InterruptIndex.MSIX})
"""Of these a PCI device has one enabled at a time."""


class InterruptFlags(enum.IntFlag):
    """What can be done with the interrupts of an index: VFIO_IRQ_INFO_*.

    NORESIZE: more vectors than were enabled first can only be enabled after all of them are disabled.
    """

    EVENTFD = vfio.VFIO_IRQ_INFO_EVENTFD
    MASKABLE = vfio.VFIO_IRQ_INFO_MASKABLE
    AUTOMASKED = vfio.VFIO_IRQ_INFO_AUTOMASKED
    NORESIZE = vfio.VFIO_IRQ_INFO_NORESIZE


@dataclass(frozen=True, slots=True)
class InterruptInfo:
    """What VFIO_DEVICE_GET_IRQ_INFO says of an index.

    index: which one; for PCI an InterruptIndex. flags: what can be done with it. count: how many vectors the device
    has; 0 for none of this kind.
    """

    index: int
    flags: InterruptFlags
    count: int


class Interrupts(DevicePart):
    """The vectors of one index. A child of the device. It owns an eventfd for each vector that is enabled.

    A PCI device has one of INTx, MSI and MSI-X enabled at a time. Safe from several threads: a thread that waits for a
    vector while another disables it gets ClosedError. info: what VFIO says of the index.
    """

    def __init__(self, device: OpenDevice, index: int) -> None:
        """Raises VfioError if the device has no such index."""
        self._vectors: dict[int, EventFd] = {}
        self._unmask: EventFd | None = None
        self._active = False
        # How many vectors the kernel has made room for, of which those that are disabled can be enabled again.
        self._room = 0
        info = vfio.vfio_irq_info(index=index)
        with device.descriptor.in_use() as fd:
            try:
                device.kernel.ioctl(fd, vfio.VFIO_DEVICE_GET_IRQ_INFO, info)
            except OSError as error:
                operation, meaning = f"interrupts {index} of {device.address}", "the device has none"
                raise VfioError(error.errno or errno.EIO, operation, meaning=meaning) from error
        self.info = InterruptInfo(index, InterruptFlags(info.flags), info.count)
        super().__init__(device, index)

    @property
    def enabled(self) -> int:
        """The number of vectors that are enabled."""
        return len(self._vectors)

    @property
    def vectors(self) -> tuple[int, ...]:
        """The numbers of the vectors that are enabled, ascending."""
        with self._lock:
            return tuple(sorted(self._vectors))

    def enable(self, count: int = 1) -> None:
        """Enable the first count vectors. A failure leaves none enabled.

        Raises InvalidArgument for more than info.count or if some are enabled, VfioError if the host cannot provide
        them, or if this process may not open a file for each.
        Source: VFIO_DEVICE_SET_IRQS; drivers/vfio/pci/vfio_pci_intrs.c, vfio_msi_enable.
        """
        operation = f"enable {self.name}"
        if not 0 < count <= self.info.count:
            raise InvalidArgument(
                errno.EINVAL, operation, {"count": count}, f"the device has {self.info.count} of them"
            )
        with self._lock:
            self.require_open()
            if self._active:
                raise InvalidArgument(errno.EBUSY, operation, meaning="enabled already", advice="Disable them first")
            self._active, self._room = True, count
            try:
                for vector in range(count):
                    self._vectors[vector] = self._event(vector)
                self._set_eventfds(0, [event.fileno() for event in self._vectors.values()])
            except VfioError:
                # The kernel has refused, or was not asked.
                self._drop_events()
                raise
            except BaseException:
                with suppress(VfioError):
                    self._disable()
                raise

    def enable_vector(self, vector: int) -> None:
        """Enable one vector more. A failure leaves the others as they are.

        A vector below the count that enable() was called with can always be enabled; one above it only if info.flags
        lacks NORESIZE, as for MSI-X from Linux 6.5 on. Raises InvalidArgument for a vector that the device does not
        have or that is enabled, VfioError.
        """
        operation = f"enable vector of {self.name}"
        if not 0 <= vector < self.info.count:
            raise InvalidArgument(
                errno.EINVAL, operation, {"vector": vector}, f"the device has {self.info.count} of them"
            )
        with self._lock:
            self.require_open()
            if vector in self._vectors:
                raise InvalidArgument(errno.EBUSY, operation, {"vector": vector}, "enabled already")
            before, event = (self._active, self._room), self._event(vector)
            try:
                self._vectors[vector] = event
                self._active = True
                self._set_eventfds(vector, [event.fileno()])
                self._room = max(self._room, vector + 1)
            except BaseException as error:
                if not isinstance(error, VfioError):
                    with suppress(VfioError):
                        self._set_eventfds(vector, [_DETACH])
                self._drop_event(vector)
                self._active, self._room = before
                raise

    def disable_vector(self, vector: int) -> None:
        """Disable one vector and close its eventfd. The others stay enabled, and so does the index.

        Raises InvalidArgument if the vector is not enabled, VfioError.
        """
        with self._lock:
            self._enabled_vector(vector)
            try:
                self._set_eventfds(vector, [_DETACH])
            except VfioError:
                raise
            except BaseException:
                with suppress(VfioError):
                    self._set_eventfds(vector, [_DETACH])
                self._drop_event(vector)
                raise
            self._drop_event(vector)

    def disable(self) -> None:
        """Disable every vector of the index and close the eventfds. Does nothing if none is enabled.

        Raises VfioError; the eventfds are closed then too.
        """
        with self._lock:
            if self._active:
                self.require_open()
                self._disable()

    def fileno(self, vector: int = 0) -> int:
        """The eventfd of a vector, for select and event loops. Read it with pending().

        Raises InvalidArgument if the vector is not enabled.
        """
        return self._enabled_vector(vector).fileno()

    def pending(self, vector: int = 0) -> int:
        """How often the vector has fired since it was asked last. Does not wait.

        Raises InvalidArgument if the vector is not enabled.
        """
        return self._enabled_vector(vector).pending()

    def wait(self, timeout: float | None = None, vector: int = 0) -> int:
        """Wait until the vector fires; return how often it has fired, or 0 after timeout seconds.

        timeout: None or infinity to wait for ever, zero or less not to wait. Raises InvalidArgument if the vector is
        not enabled, ClosedError if it is disabled meanwhile.
        """
        return self._enabled_vector(vector).wait(timeout)

    def wait_any(self, timeout: float | None = None) -> dict[int, int]:
        """Wait until an enabled vector fires; return how often each has fired that did. Empty after timeout seconds.

        timeout: None or infinity to wait for ever, zero or less not to wait. Raises InvalidArgument if none is enabled,
        ClosedError if one is disabled meanwhile.
        """
        with self._lock:
            self._enabled_vector(next(iter(self._vectors), 0))
            vectors = self._vectors.copy()
        return wait_for_any(vectors, timeout)

    async def wait_async(self, vector: int = 0) -> int:
        """Wait in the running asyncio loop until the vector fires; return how often it has fired.

        One task at a time can wait for a vector. Raises what wait() raises.
        """
        return await self._enabled_vector(vector).wait_async()

    def trigger(self, vector: int = 0) -> None:
        """Have the kernel signal the vector's eventfd as if the device had fired it.

        Raises InvalidArgument if the vector is not enabled, VfioError.
        """
        self._enabled_vector(vector)
        self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, vector, 1)

    def mask(self) -> None:
        """Hold INTx back: what comes meanwhile fires after unmask(). Raises VfioError (ENOTTY) for MSI and MSI-X."""
        self.require_open()
        self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_MASK, 0, 1)

    def unmask(self) -> None:
        """Let INTx fire again: it masks itself each time that it fires. Raises VfioError (ENOTTY) for MSI and MSI-X."""
        self.require_open()
        self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_UNMASK, 0, 1)

    def unmask_event(self) -> EventFd:
        """An eventfd that unmasks INTx when it is signalled, without a call of this library. disable() closes it.

        It is the same one at each call, until it is closed; a new one then.
        Raises VfioError (ENOTTY) for MSI and MSI-X.
        """
        with self._lock:
            self.require_open()
            if self._unmask is None or self._unmask.closed:
                flags = vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_UNMASK
                if self._unmask is not None:
                    # The kernel keeps the one before, whoever has closed it, and takes no second one.
                    self._set(flags, 0, 1, [_DETACH])
                    self._unmask = None
                event = self._unmask = EventFd(self.kernel, f"unmask of {self.name}", is_owned=True)
                try:
                    self._set(flags, 0, 1, [event.fileno()])
                except BaseException as error:
                    event.close()
                    if isinstance(error, VfioError):
                        self._unmask = None
                    raise
            return self._unmask

    @property
    def name(self) -> str:
        """What messages call the interrupts: by index and device."""
        return f"interrupts {self.info.index} of {self.device.address}"

    def _event(self, vector: int) -> EventFd:
        return EventFd(self.kernel, f"vector {vector} of {self.name}", is_owned=True)

    def _enabled_vector(self, vector: int) -> EventFd:
        self.require_open()
        try:
            return self._vectors[vector]
        except KeyError:
            meaning = f"it is not enabled; {len(self._vectors)} vectors are"
            operation = f"vector {vector} of {self.name}"
            raise InvalidArgument(errno.EINVAL, operation, {}, meaning, self._way_to_enable(vector)) from None

    def _way_to_enable(self, vector: int) -> str:
        if not 0 <= vector < self.info.count:
            return f"The device has {self.info.count} of them"
        if not self._active:
            return "Call enable() first"
        return f"Call enable_vector({vector}) first" if self._has_room(vector + 1) else self._way_to_room(vector + 1)

    def _has_room(self, count: int) -> bool:
        return count <= self._room or not self.info.flags & InterruptFlags.NORESIZE

    @staticmethod
    def _way_to_room(count: int) -> str:
        return f"disable(), then enable({count})"

    def _set_eventfds(self, start: int, fds: Sequence[int]) -> None:
        self._set(vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, start, len(fds), fds)

    def _set(self, flags: int, start: int, count: int, eventfds: Sequence[int] = ()) -> None:
        head = ctypes.sizeof(vfio.vfio_irq_set)
        buffer = ctypes.create_string_buffer(head + 4 * len(eventfds))
        argument = vfio.vfio_irq_set.from_buffer(buffer)
        argument.argsz = len(buffer)
        argument.flags = flags
        argument.index = self.info.index
        argument.start = start
        argument.count = count
        (ctypes.c_int32 * len(eventfds)).from_buffer(buffer, head)[:] = list(eventfds)
        arguments = {"start": start, "count": count}
        with self.device.descriptor.in_use() as fd:
            try:
                result = self.kernel.ioctl(fd, vfio.VFIO_DEVICE_SET_IRQS, buffer)
            except OSError as error:
                meaning, advice = {
                    errno.EINVAL: self._refusal(start, count),
                    errno.ENOTTY: ("this kind of interrupt cannot do that", ""),
                    errno.ENOSPC: ("the host has no interrupt vectors left", ""),
                }.get(error.errno or 0, ("", ""))
                raise VfioError(error.errno or errno.EIO, f"set {self.name}", arguments, meaning, advice) from error
        if result > 0:
            # vfio_msi_enable: the number of vectors the host could have provided.
            raise VfioError(
                errno.ENOSPC, f"set {self.name}", arguments, f"the host can provide only {result}", "Ask for fewer"
            )

    def _refusal(self, start: int, count: int) -> tuple[str, str]:
        """Why the kernel refuses (EINVAL) vectors that the device has, and what to do; as far as this process knows."""
        rivals = _EXCLUSIVE if self._is_pci and self.index in _EXCLUSIVE else frozenset()
        others = (each for each in self.device.parts(Interrupts) if each is not self and each.index in rivals)
        if other := next((each for each in others if each._active), None):
            name = InterruptIndex(other.index).name
            return f"{name} is enabled: a device has one kind of interrupt at a time", f"Disable {name} first"
        if not self._has_room(start + count):
            return (
                f"there is room for {self._room}, as many as were enabled first, and this kernel adds none",
                self._way_to_room(start + count),
            )
        known = opened(OpenDevice, lambda each: each is not self.device and each.address == self.device.address)
        who = f"{known!r}, another object of this process, or another program" if known else "another program"
        return f"it is not enabled, or {who} has enabled another kind of interrupt", ""

    @property
    def _is_pci(self) -> bool:
        return bool(self.device.info.flags & DeviceFlags.PCI)

    def _disable(self) -> None:
        try:
            self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0)
        except VfioError:
            raise
        except BaseException:
            # It may have come before the kernel was asked.
            with suppress(VfioError):
                self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0)
            raise
        finally:
            self._drop_events()

    def _drop_event(self, vector: int) -> None:
        event = self._vectors.pop(vector)
        if not self._vectors and self._is_pci and self.index in _SINGLE:
            self._active, self._room = False, 0
        event.close()

    def _drop_events(self) -> None:
        events = [*self._vectors.values(), *([self._unmask] if self._unmask else [])]
        self._vectors, self._unmask, self._active, self._room = {}, None, False, 0
        for event in events:
            event.close()

    def _release(self) -> None:
        if self._active and not self._inherited:
            self._disable()
        else:
            self._drop_events()

    def __repr__(self) -> str:
        return f"<Interrupts {self.info.index} of {self.device.address}, {self.enabled} enabled>"
