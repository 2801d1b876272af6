"""Edid: the monitor that a mediated GPU is told to have. Source: linux/vfio.h, vfio_region_gfx_edid."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.abi.types import offset_of
from pyvfio.device.lasting_region import LastingRegion
from pyvfio.device.open_device import OpenDevice
from pyvfio.device.region import RegionIndex
from pyvfio.device.region_info import RegionType
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.kernel import octets_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_EDID = RegionType(vfio.VFIO_REGION_TYPE_GFX, vfio.VFIO_REGION_SUBTYPE_GFX_EDID)
_HEAD = vfio.vfio_region_gfx_edid
_LINK = offset_of(_HEAD, "link_state")


class Edid:
    """The monitor of a mediated GPU. Owns nothing: it works as long as its device is open.

    max_size: how many bytes the longest EDID has that the device takes. max_resolution: the largest width and height in
    pixels that the device shows; None for any.
    """

    def __init__(self, device: OpenDevice) -> None:
        """Raises VfioError (ENOTTY) for a device that has no region for an EDID."""
        self._region = _region_of(device)
        head = self._head()
        self.max_size: int = head.edid_max_size
        self.max_resolution = (head.max_xres, head.max_yres) if head.max_xres and head.max_yres else None

    @property
    def connected(self) -> bool:
        """Whether a monitor is plugged in."""
        return bool(self._head().link_state == vfio.VFIO_DEVICE_GFX_LINK_STATE_UP)

    @property
    def data(self) -> bytes:
        """The EDID that was given last; b"" if none was."""
        head = self._head()
        return self._region.read(head.edid_offset, head.edid_size) if head.edid_size else b""

    def connect(self, data: ReadableBuffer) -> None:
        """Plug in a monitor that describes itself with data, an EDID. The monitor before it is taken away first.

        Raises InvalidArgument for an EDID of no bytes or more than max_size; nothing has changed then.
        """
        octets = octets_of(data)
        if not 0 < len(octets) <= self.max_size:
            meaning = f"an EDID has 1 to {self.max_size} bytes here"
            arguments = {"size": len(octets)}
            raise InvalidArgument(errno.EINVAL, f"EDID of {self._region.address}", arguments, meaning)
        offset = self._head().edid_offset
        self.disconnect()
        self._region.write(offset, octets)
        self._region.write32(offset_of(_HEAD, "edid_size"), len(octets))
        self._region.write32(_LINK, vfio.VFIO_DEVICE_GFX_LINK_STATE_UP)

    def disconnect(self) -> None:
        """Take the monitor away. Does nothing if there is none."""
        self._region.write32(_LINK, vfio.VFIO_DEVICE_GFX_LINK_STATE_DOWN)

    def _head(self) -> vfio.vfio_region_gfx_edid:
        fields = (self._region.read32(offset) for offset in range(0, ctypes.sizeof(_HEAD), 4))
        return _HEAD(*fields)

    def __repr__(self) -> str:
        return f"<Edid of {self._region.address}>"


def _region_of(device: OpenDevice) -> LastingRegion:
    for index in range(RegionIndex.VGA + 1, device.info.num_regions):
        region = LastingRegion(device, index)
        if region.info.type == _EDID:
            return region
    raise VfioError(errno.ENOTTY, f"EDID of {device.address}", meaning="it has no region for one")
