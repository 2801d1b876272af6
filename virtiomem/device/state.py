"""DeviceState: what travels of a device when its virtual machine migrates, to and from bytes."""

from __future__ import annotations

import ctypes
import errno
import struct
import zlib
from dataclasses import dataclass
from typing import Final, Self

from virtiomem import abi
from virtiomem.device.config import Config, Feature
from virtiomem.device.errors import StateRefused
from virtiomem.runs import Run, runs_of_bits

_MAGIC: Final = b"virtmem\0"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<8sII")
"""Magic, version, and bytes in all."""
_REST: Final = struct.Struct("<QI")
"""Negotiated features and flags, after the config space. The blocks follow, a bit each."""
_CHECKSUM: Final = struct.Struct("<I")
_CONFIG_SIZE: Final = ctypes.sizeof(abi.virtio_mem_config)
_BROKEN: Final = 1


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device without the content of its memory; bytes() of it is what is saved.

    config: as the guest read it. negotiated: the features that its driver accepted. broken: whether the guest broke the
    protocol and has not reset the device. plugged: the maximal runs of plugged blocks, by number, ascending.

    The bytes are little-endian: a head (magic, version, size), struct virtio_mem_config, the negotiated features (u64),
    flags (u32; 1: broken), one bit for each block of the region, and the CRC-32 of all that.
    """

    config: Config
    negotiated: Feature
    broken: bool
    plugged: tuple[Run, ...]

    def __bytes__(self) -> bytes:
        count = self.config.region_size // self.config.block_size
        digits = bytearray(b"0" * count)
        for run in self.plugged:
            digits[run.start : run.end] = b"1" * run.size
        bitmap = int(digits[::-1], 2).to_bytes(-(-count // 8), "little")
        rest = bytes(self.config) + _REST.pack(self.negotiated, _BROKEN if self.broken else 0) + bitmap
        data = _HEAD.pack(_MAGIC, _VERSION, _HEAD.size + len(rest) + _CHECKSUM.size) + rest
        return data + _CHECKSUM.pack(zlib.crc32(data))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a state from data. Raises StateRefused for what this version of the library cannot have written."""
        if len(data) < _HEAD.size or data[: len(_MAGIC)] != _MAGIC:
            raise _refused("it is not the state of a virtio-mem device")
        _, version, size = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise _refused(f"it has version {version}, and this library reads version {_VERSION}")
        if len(data) != size or size < _HEAD.size + _CONFIG_SIZE + _REST.size + _CHECKSUM.size:
            raise _refused(f"it has {len(data)} bytes of {size}")
        if zlib.crc32(data[: -_CHECKSUM.size]) != _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]:
            raise _refused("its checksum is wrong: it was damaged on the way")
        position = _HEAD.size + _CONFIG_SIZE
        config = Config.parse(data[_HEAD.size : position])
        negotiated, flags = _REST.unpack_from(data, position)
        if flags & ~_BROKEN:
            raise _refused(f"its flags {flags:#x} are unknown")
        plugged = _runs(data[position + _REST.size : -_CHECKSUM.size], config)
        return cls(config, Feature(negotiated), bool(flags & _BROKEN), plugged)

    def check(self, device: Config, offered: Feature) -> None:
        """Raises StateRefused unless a device with this config can go on from this state, which needs nothing plugged.

        offered: the features that the device offers.
        """
        ours, theirs = self.config, device
        for name, here, there in (
            ("address", theirs.addr, ours.addr),
            ("region size", theirs.region_size, ours.region_size),
            ("block size", theirs.block_size, ours.block_size),
            ("node id", theirs.node_id, ours.node_id),
        ):
            if here != there:
                raise _refused(f"its {name} is {there:#_x}, and this device's is {here:#_x}")
        for name, size in (("requested", ours.requested_size), ("usable", ours.usable_region_size)):
            if size % ours.block_size or size > ours.region_size:
                raise _refused(f"its {name} size {size:#_x} is no multiple of the block size within the region")
        if ours.usable_region_size < max(ours.requested_size, _end(self.plugged) * ours.block_size):
            raise _refused(f"its usable size {ours.usable_region_size:#_x} leaves out requested or plugged blocks")
        if unknown := self.negotiated & ~offered:
            raise _refused(f"its driver negotiated features {unknown:#x}, which this device does not offer")
        if device.plugged_size:
            raise StateRefused(errno.EBUSY, "load state", meaning="blocks are plugged: reset the system first")


def _runs(bitmap: bytes, config: Config) -> tuple[Run, ...]:
    """The plugged runs in a bitmap of blocks. Raises StateRefused if it does not belong to config."""
    if not config.block_size or config.region_size % config.block_size:
        raise _refused(f"its region of {config.region_size:#_x} bytes has no blocks of {config.block_size:#_x}")
    count = config.region_size // config.block_size
    if len(bitmap) != -(-count // 8):
        raise _refused(f"it has {len(bitmap)} bytes for {count} blocks")
    bits = int.from_bytes(bitmap, "little")
    if bits >> count or bits.bit_count() * config.block_size != config.plugged_size:
        raise _refused(f"its blocks do not add up to the plugged size {config.plugged_size:#_x}")
    return tuple(runs_of_bits(bits, count))


def _end(plugged: tuple[Run, ...]) -> int:
    return plugged[-1].end if plugged else 0


def _refused(meaning: str) -> StateRefused:
    return StateRefused(errno.EINVAL, "load state", meaning=meaning)
