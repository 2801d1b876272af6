"""Negotiation: what a front end has negotiated, shared and set up for a device, message by message."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from pyvfio.errors import VfioError
from virtiomem.device import FeaturesRefused, VirtioMem
from virtiomem.vhost_user.abi import vhost_user, virtio_config, virtio_ring
from virtiomem.vhost_user.abi.vhost_types import vhost_vring_addr, vhost_vring_state
from virtiomem.vhost_user.abi.vhost_user import (
    VhostUserConfig,
    VhostUserMemory,
    VhostUserMemoryRegion,
    VhostUserMemRegMsg,
)
from virtiomem.vhost_user.connection import Connection
from virtiomem.vhost_user.errors import FrontEndError
from virtiomem.vhost_user.events import FrontEndEvents
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.messages import FrontEndRequest, Message, ProtocolFeature
from virtiomem.vhost_user.region_memory import RegionMemory
from virtiomem.vhost_user.service import Service
from virtiomem.vhost_user.session.record import Keep, RegionRecord, SessionRecord
from virtiomem.vhost_user.vring import Vring

_TRANSPORT_FEATURES: Final = (
    1 << virtio_config.VIRTIO_F_VERSION_1
    | 1 << virtio_ring.VIRTIO_RING_F_INDIRECT_DESC
    | 1 << virtio_ring.VIRTIO_RING_F_EVENT_IDX
)
_F_PROTOCOL_FEATURES: Final = 1 << vhost_user.VHOST_USER_F_PROTOCOL_FEATURES
_PROTOCOL_FEATURES: Final = ProtocolFeature(sum(ProtocolFeature))
_MEMORY_SLOTS: Final = 64


class Negotiation:
    """Does what messages ask for.

    All that the front end sends is checked before it is used. What it may not do ends its connection (FrontEndError).
    What it may ask for and cannot have is refused; it is told so if it waits for a reply.
    """

    def __init__(
        self,
        device: VirtioMem,
        memory: RegionMemory,
        table: MemoryTable,
        vring: Vring,
        service: Service,
        events: FrontEndEvents,
        *,
        packed: bool,
    ) -> None:
        """memory: what takes the region's memory. table, vring, service: what is set up, which stay the caller's.

        events: who is told of what is refused. packed: offer packed rings, too.
        """
        self._device = device
        self._region_memory = memory
        self._table = table
        self._vring = vring
        self._service = service
        self._events = events
        self._packed_feature = 1 << virtio_config.VIRTIO_F_RING_PACKED if packed else 0
        self._protocol_features = ProtocolFeature(0)
        self._status = 0

    def record(self, keep: Keep, connection: str, taken: str) -> SessionRecord:
        """What go_on() goes on from. keep: has descriptors kept. connection, taken: names of descriptors."""
        channel = self._service.channel
        return SessionRecord(
            connection=connection,
            taken=taken,
            channel=None if channel is None else keep(channel, channel.fileno(), "channel"),
            protocol_features=int(self._protocol_features),
            status=self._status,
            features=self._service.features,
            broken=self._service.ring_broken,
            regions=tuple(
                RegionRecord(
                    region.guest_address,
                    region.size,
                    region.user_address,
                    region.file.offset,
                    keep(region, region.fd, "memory"),
                )
                for region in self._table.regions
            ),
            ring=self._vring.record(keep),
        )

    def go_on(self, record: SessionRecord, use: Callable[[str], int]) -> None:
        """Go on where the process before stood. use: gives a copy, which is the caller's, of a descriptor by its name.

        Raises VfioError if that cannot be, with what there was closed by the owners of table, vring and service.
        """
        ring = record.ring
        for region in record.regions:
            entry = VhostUserMemoryRegion(region.guest_address, region.size, region.user_address, region.mmap_offset)
            self._table.add(entry, use(region.memory))
        self._vring.describe(ring, use)
        if record.channel is not None:
            self._service.set_channel(Connection.over(use(record.channel)))
        self._protocol_features, self._status = ProtocolFeature(record.protocol_features), record.status
        with suppress(VfioError):
            # It says by itself what is missing.
            self._region_memory.attach(self._table.regions)
        self._service.go_on(record.features, ring.run, broken=record.broken)

    def handle(self, message: Message) -> bytes | None:
        """Do what message wants; return what is to be replied, None for nothing. Raises FrontEndError."""
        is_answered = message.needs_reply and bool(self._protocol_features & ProtocolFeature.REPLY_ACK)
        handler = _HANDLERS.get(message.request)
        if handler is None:
            if not is_answered:
                raise message.error("it was not offered")
            return _u64(1)
        reply: bytes | None = None
        failed = False
        try:
            reply = handler(self, message)
        except FrontEndError:
            raise
        except FeaturesRefused:
            # The service has told of it, by another name than that of the message.
            failed = True
        except VfioError as error:
            self._events.refused(message.name, error)
            failed = True
        except OSError as error:
            self._events.refused(message.name, VfioError(error.errno or errno.EIO, message.name))
            failed = True
        return _u64(failed) if reply is None and is_answered else reply

    # Features and status.

    @property
    def _offered(self) -> int:
        return int(self._device.features) | _TRANSPORT_FEATURES | self._packed_feature | _F_PROTOCOL_FEATURES

    def _get_features(self, message: Message) -> bytes:
        message.require_size(0)
        return _u64(self._offered)

    def _set_features(self, message: Message) -> None:
        features = message.number()
        if unknown := features & ~self._offered:
            raise message.error(f"features {unknown:#x} were not offered")
        self._service.negotiate(features)
        if not features & _F_PROTOCOL_FEATURES:
            # Without the protocol's features there is no SET_VRING_ENABLE: the ring is enabled from the start.
            self._vring.set_enabled(True)

    def _get_protocol_features(self, message: Message) -> bytes:
        message.require_size(0)
        return _u64(_PROTOCOL_FEATURES)

    def _set_protocol_features(self, message: Message) -> None:
        features = message.number()
        if unknown := features & ~int(_PROTOCOL_FEATURES):
            raise message.error(f"protocol features {unknown:#x} were not offered")
        self._protocol_features = ProtocolFeature(features)

    def _get_status(self, message: Message) -> bytes:
        message.require_size(0)
        status = self._status
        if self._service.broken:
            status |= virtio_config.VIRTIO_CONFIG_S_NEEDS_RESET
        if self._service.features_refused:
            status &= ~virtio_config.VIRTIO_CONFIG_S_FEATURES_OK
        return _u64(status)

    def _set_status(self, message: Message) -> None:
        self._status = message.number() & 0xFF
        if not self._status:
            self._service.reset()
            self._vring.set_enabled(False)

    def _reset_device(self, message: Message) -> None:
        message.require_size(0)
        self._service.reset()
        self._vring.reset()
        self._status = 0

    def _reset_owner(self, message: Message) -> None:
        # The specification leaves its meaning open, and recommends this one.
        message.require_size(0)
        self._service.stop()
        self._vring.set_enabled(False)

    def _set_owner(self, message: Message) -> None:
        message.require_size(0)

    def _get_queue_num(self, message: Message) -> bytes:
        message.require_size(0)
        return _u64(1)

    # Config space.

    def _get_config(self, message: Message) -> bytes:
        wanted = self._config_range(message)
        config = bytes(self._device.config)[wanted.offset : wanted.offset + wanted.size]
        if len(config) < wanted.size:
            # An empty payload is how the specification refuses.
            return b""
        return bytes(wanted) + config

    def _set_config(self, message: Message) -> None:
        # The driver may not write the config space. QEMU's own device ignores it, too.
        self._config_range(message)

    def _config_range(self, message: Message) -> VhostUserConfig:
        size = ctypes.sizeof(VhostUserConfig)
        if len(message.payload) < size:
            raise message.error(f"its payload has {len(message.payload)} bytes")
        wanted = VhostUserConfig.from_buffer_copy(message.payload)
        if wanted.size > vhost_user.VHOST_USER_MAX_CONFIG_SIZE or len(message.payload) != size + wanted.size:
            raise message.error(f"{wanted.size} bytes of config space in a payload of {len(message.payload)}")
        return wanted

    def _set_backend_req_fd(self, message: Message) -> None:
        message.require_fds(1)
        try:
            channel = Connection.over(message.take_fd())
        except OSError as error:
            raise message.error("its descriptor is no connected unix stream socket") from error
        self._service.set_channel(channel)

    # Memory.

    def _set_mem_table(self, message: Message) -> None:
        size = ctypes.sizeof(VhostUserMemory)
        if len(message.payload) < size:
            raise message.error(f"its payload has {len(message.payload)} bytes")
        count = VhostUserMemory.from_buffer_copy(message.payload).nregions
        if count > vhost_user.VHOST_MEMORY_BASELINE_NREGIONS:
            raise message.error(f"{count} regions")
        message.require_size(size + count * ctypes.sizeof(VhostUserMemoryRegion))
        message.require_fds(count)
        entries = list((VhostUserMemoryRegion * count).from_buffer_copy(message.payload, size))
        self._vring.halt()
        try:
            self._table.replace(entries, [message.take_fd() for _ in entries])
        except FrontEndError:
            raise
        except OSError:
            # The ring goes on in the memory that there was.
            self._service.start()
            raise
        self._memory_changed()

    def _add_mem_reg(self, message: Message) -> None:
        entry = message.parse(VhostUserMemRegMsg).region
        message.require_fds(1)
        if len(self._table.regions) >= _MEMORY_SLOTS:
            raise message.error("more regions than slots")
        self._table.add(entry, message.take_fd())
        self._memory_changed()

    def _rem_mem_reg(self, message: Message) -> None:
        entry = message.parse(VhostUserMemRegMsg).region
        self._vring.halt()
        self._table.remove(entry)
        self._memory_changed()

    def _get_max_mem_slots(self, message: Message) -> bytes:
        message.require_size(0)
        return _u64(_MEMORY_SLOTS)

    def _memory_changed(self) -> None:
        try:
            self._region_memory.attach(self._table.regions)
        finally:
            # Its own memory a ring has, whatever becomes of the region's: what it asks is answered BUSY then.
            self._service.start()

    # The ring.

    def _set_vring_num(self, message: Message) -> None:
        self._require_halted(message)
        self._vring.set_size(self._ring_state(message).num, packed=bool(self._packed_feature))

    def _set_vring_addr(self, message: Message) -> None:
        address = message.parse(vhost_vring_addr)
        self._require_first(message, address.index)
        if address.flags:
            raise message.error(f"flags {address.flags:#x}: logging was not offered")
        self._vring.set_address(address)
        self._service.start()

    def _set_vring_base(self, message: Message) -> None:
        self._require_halted(message)
        self._vring.set_base(self._ring_state(message).num)

    def _get_vring_base(self, message: Message) -> bytes:
        state = self._ring_state(message)
        # QEMU tells of a driver's reset in no other way.
        self._service.stop_driver()
        self._vring.close()
        return bytes(vhost_vring_state(index=state.index, num=self._vring.base))

    def _set_vring_kick(self, message: Message) -> None:
        fd = self._ring_fd(message)
        if fd is None:
            raise message.error("it wants the ring polled, which this back end does not do")
        self._vring.set_kick(fd)
        self._service.start()

    def _set_vring_call(self, message: Message) -> None:
        self._vring.set_call(self._ring_fd(message))

    def _set_vring_err(self, message: Message) -> None:
        self._vring.set_error(self._ring_fd(message))

    def _set_vring_enable(self, message: Message) -> None:
        enabled = self._ring_state(message).num
        if enabled > 1:
            raise message.error(f"enabled is {enabled}")
        self._vring.set_enabled(bool(enabled))
        if enabled:
            self._service.start()
        else:
            self._service.stop()

    def _ring_state(self, message: Message) -> vhost_vring_state:
        state = message.parse(vhost_vring_state)
        self._require_first(message, state.index)
        return state

    def _ring_fd(self, message: Message) -> int | None:
        number = message.number()
        self._require_first(message, number & vhost_user.VHOST_USER_VRING_IDX_MASK)
        if number & vhost_user.VHOST_USER_VRING_NOFD_MASK:
            return None
        message.require_fds(1)
        return message.take_fd()

    def _require_first(self, message: Message, index: int) -> None:
        if index:
            raise message.error(f"ring {index} does not exist")

    def _require_halted(self, message: Message) -> None:
        if self._vring.running:
            raise message.error("the ring is running")


def _u64(value: int) -> bytes:
    return bytes(ctypes.c_uint64(value))


_HANDLERS: Final[Mapping[int, Callable[[Negotiation, Message], bytes | None]]] = {
    FrontEndRequest.GET_FEATURES: Negotiation._get_features,
    FrontEndRequest.SET_FEATURES: Negotiation._set_features,
    FrontEndRequest.SET_OWNER: Negotiation._set_owner,
    FrontEndRequest.RESET_OWNER: Negotiation._reset_owner,
    FrontEndRequest.SET_MEM_TABLE: Negotiation._set_mem_table,
    FrontEndRequest.SET_VRING_NUM: Negotiation._set_vring_num,
    FrontEndRequest.SET_VRING_ADDR: Negotiation._set_vring_addr,
    FrontEndRequest.SET_VRING_BASE: Negotiation._set_vring_base,
    FrontEndRequest.GET_VRING_BASE: Negotiation._get_vring_base,
    FrontEndRequest.SET_VRING_KICK: Negotiation._set_vring_kick,
    FrontEndRequest.SET_VRING_CALL: Negotiation._set_vring_call,
    FrontEndRequest.SET_VRING_ERR: Negotiation._set_vring_err,
    FrontEndRequest.GET_PROTOCOL_FEATURES: Negotiation._get_protocol_features,
    FrontEndRequest.SET_PROTOCOL_FEATURES: Negotiation._set_protocol_features,
    FrontEndRequest.GET_QUEUE_NUM: Negotiation._get_queue_num,
    FrontEndRequest.SET_VRING_ENABLE: Negotiation._set_vring_enable,
    FrontEndRequest.SET_BACKEND_REQ_FD: Negotiation._set_backend_req_fd,
    FrontEndRequest.GET_CONFIG: Negotiation._get_config,
    FrontEndRequest.SET_CONFIG: Negotiation._set_config,
    FrontEndRequest.RESET_DEVICE: Negotiation._reset_device,
    FrontEndRequest.GET_MAX_MEM_SLOTS: Negotiation._get_max_mem_slots,
    FrontEndRequest.ADD_MEM_REG: Negotiation._add_mem_reg,
    FrontEndRequest.REM_MEM_REG: Negotiation._rem_mem_reg,
    FrontEndRequest.SET_STATUS: Negotiation._set_status,
    FrontEndRequest.GET_STATUS: Negotiation._get_status,
}
