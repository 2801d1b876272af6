"""Edid: what a device with a display is told of its monitor. Source: linux/vfio.h, vfio_region_gfx_edid."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.abi.types import offset_of
from pyvfio.device.region import Region, RegionIndex
from pyvfio.device.region_info import RegionType
from pyvfio.errors import InvalidArgument, VfioError

if TYPE_CHECKING:
    from pyvfio.device.device import Device

_EDID = RegionType(vfio.VFIO_REGION_TYPE_GFX, vfio.VFIO_REGION_SUBTYPE_GFX_EDID)
_HEAD = vfio.vfio_region_gfx_edid
_LINK = offset_of(_HEAD, "link_state")


class Edid:
    """A monitor that may be plugged in and taken away. Owns nothing: it lives as long as its device.

    max_size: bytes of an EDID that the device takes. max_resolution: width and height in pixels that it can show, None
    for any.
    """

    def __init__(self, device: Device) -> None:
        """Raises VfioError (ENOTTY) for a device without a region of this kind."""
        self._region = _region_of(device)
        head = self._head()
        self.max_size: int = head.edid_max_size
        self.max_resolution = (head.max_xres, head.max_yres) if head.max_xres and head.max_yres else None

    @property
    def connected(self) -> bool:
        return bool(self._head().link_state == vfio.VFIO_DEVICE_GFX_LINK_STATE_UP)

    @property
    def data(self) -> bytes:
        """The EDID that was given last, b"" for none."""
        head = self._head()
        return self._region.read(head.edid_offset, head.edid_size) if head.edid_size else b""

    def connect(self, data: bytes) -> None:
        """Plug a monitor in that describes itself with data, an EDID; the one before is taken away first.

        Raises InvalidArgument, before anything has changed, for no data or more than max_size.
        """
        if not 0 < len(data) <= self.max_size:
            meaning = f"an EDID has 1 to {self.max_size} bytes here"
            raise InvalidArgument(errno.EINVAL, f"EDID of {self._region.device.address}", {"size": len(data)}, meaning)
        offset = self._head().edid_offset
        self.disconnect()
        self._region.write(offset, data)
        self._region.write32(offset_of(_HEAD, "edid_size"), len(data))
        self._region.write32(_LINK, vfio.VFIO_DEVICE_GFX_LINK_STATE_UP)

    def disconnect(self) -> None:
        """Take the monitor away. Without one it is harmless."""
        self._region.write32(_LINK, vfio.VFIO_DEVICE_GFX_LINK_STATE_DOWN)

    def _head(self) -> vfio.vfio_region_gfx_edid:
        fields = (self._region.read32(offset) for offset in range(0, ctypes.sizeof(_HEAD), 4))
        return _HEAD(*fields)

    def __repr__(self) -> str:
        return f"<Edid of {self._region.device.address}>"


def _region_of(device: Device) -> Region:
    for index in range(RegionIndex.VGA + 1, device.info.num_regions):
        region = device.region(index)
        if region.info.type == _EDID:
            return region
    raise VfioError(errno.ENOTTY, f"EDID of {device.address}", meaning="it has no region for one")
