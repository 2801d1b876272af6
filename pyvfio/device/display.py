"""Display: what a mediated GPU shows. Source: linux/vfio.h, VFIO_DEVICE_QUERY_GFX_PLANE."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from dataclasses import dataclass

from pyvfio.abi import vfio
from pyvfio.device.edid import Edid
from pyvfio.device.open_device import OpenDevice
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.explain import Meanings, explain

_PLANE: Meanings = {
    errno.ENOMEM: ("the driver has no memory for it now", "Ask again"),
    errno.EINVAL: ("the device has no such plane", "types tells how it shows its planes"),
}
_DMA_BUF: Meanings = {errno.ENOENT: ("the plane is no longer shown", "Ask for plane() again: it has another id now")}


class DrmPlaneType(enum.IntEnum):
    """The layers of a screen: DRM_PLANE_TYPE_* of drm/drm_plane.h."""

    OVERLAY = 0
    PRIMARY = 1
    CURSOR = 2


class GfxPlaneType(enum.IntEnum):
    """Where the pixels of a plane are: VFIO_GFX_PLANE_TYPE_*."""

    DMABUF = vfio.VFIO_GFX_PLANE_TYPE_DMABUF
    """In a dma-buf, which Display.dma_buf() returns."""
    REGION = vfio.VFIO_GFX_PLANE_TYPE_REGION
    """In a region of the device, from the region's start on."""


@dataclass(frozen=True, slots=True)
class GfxPlane:
    """A plane as it is shown now.

    drm_plane_type: which layer it is. drm_format: the format of its pixels, a DRM_FORMAT_* code. drm_format_mod: how
    the pixels are tiled; 0 for lines one after another. width, height: in pixels. stride: the bytes of a line. size:
    the bytes of the plane. x_pos, y_pos: where a cursor is on the screen, in pixels; x_hot, y_hot: where its hot spot
    is in the cursor. region_index: the region with the pixels; None if they are in a dma-buf. dmabuf_id: the number of
    the dma-buf with the pixels; None if they are in a region.
    """

    drm_plane_type: DrmPlaneType
    drm_format: int
    drm_format_mod: int
    width: int
    height: int
    stride: int
    size: int
    x_pos: int
    y_pos: int
    x_hot: int
    y_hot: int
    region_index: int | None
    dmabuf_id: int | None

    @property
    def fourcc(self) -> str:
        """drm_format as four letters: "XR24" for 8 unused bits and 8 each of red, green and blue."""
        return self.drm_format.to_bytes(4, "little").decode("latin-1")


class Display:
    """The screen of a device. Owns nothing: it works while its device is open.

    device: the device. types: where the device can have the pixels of its planes.
    """

    def __init__(self, device: OpenDevice) -> None:
        """Raises VfioError (ENOTTY) for a device without a screen, as every device of vfio-pci is."""
        device.require_open()
        self.device = device
        self.types = tuple(kind for kind in GfxPlaneType if self._shows(kind))
        if not self.types:
            raise self._none(errno.ENOTTY)

    def plane(
        self, drm_plane_type: DrmPlaneType = DrmPlaneType.PRIMARY, gfx_plane_type: GfxPlaneType | None = None
    ) -> GfxPlane | None:
        """A plane, or None if nothing is shown on it, for example because the guest has not set a mode yet.

        drm_plane_type: which layer. gfx_plane_type: where its pixels are to be; None for the first of types. Raises
        VfioError if the device has no such plane, or has no pixels there. Source: VFIO_DEVICE_QUERY_GFX_PLANE.
        """
        kind = self.types[0] if gfx_plane_type is None else gfx_plane_type
        argument = vfio.vfio_device_gfx_plane_info(flags=kind, drm_plane_type=drm_plane_type)
        operation = f"{drm_plane_type.name} plane of {self.device.address}"
        self.device.require_open()
        with self.device.descriptor.in_use() as fd:
            try:
                self.device.kernel.ioctl(fd, vfio.VFIO_DEVICE_QUERY_GFX_PLANE, argument)
            except OSError as error:
                raise explain(error, operation, {"type": kind.name}, _PLANE) from error
        if not argument.drm_format:
            return None
        return GfxPlane(
            drm_plane_type,
            argument.drm_format,
            argument.drm_format_mod,
            argument.width,
            argument.height,
            argument.stride,
            argument.size,
            argument.x_pos,
            argument.y_pos,
            argument.x_hot,
            argument.y_hot,
            argument.region_index if kind is GfxPlaneType.REGION else None,
            argument.dmabuf_id if kind is GfxPlaneType.DMABUF else None,
        )

    def dma_buf(self, plane: GfxPlane) -> int:
        """The dma-buf with the pixels of plane, for a GPU. The caller owns the descriptor.

        Some drivers let a program map the dma-buf too. Raises InvalidArgument for a plane in a region, VfioError
        (ENOENT) for one that is no longer shown.
        Source: VFIO_DEVICE_GET_GFX_DMABUF.
        """
        operation = f"dma-buf of {self.device.address}"
        if plane.dmabuf_id is None:
            raise InvalidArgument(errno.EINVAL, operation, meaning=f"the plane is in region {plane.region_index}")
        self.device.require_open()
        dmabuf_id = ctypes.c_int32(plane.dmabuf_id)
        with self.device.descriptor.in_use() as device:
            try:
                fd = self.device.kernel.ioctl(device, vfio.VFIO_DEVICE_GET_GFX_DMABUF, dmabuf_id)
            except OSError as error:
                raise explain(error, operation, {"dmabuf_id": plane.dmabuf_id}, _DMA_BUF) from error
        os.set_inheritable(fd, False)
        return fd

    def edid(self) -> Edid:
        """The monitor that the device is told to have. Raises VfioError (ENOTTY) if it cannot be told."""
        return Edid(self.device)

    def _shows(self, kind: GfxPlaneType) -> bool:
        probe = vfio.vfio_device_gfx_plane_info(flags=vfio.VFIO_GFX_PLANE_TYPE_PROBE | kind)
        with self.device.descriptor.in_use() as fd:
            try:
                self.device.kernel.ioctl(fd, vfio.VFIO_DEVICE_QUERY_GFX_PLANE, probe)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return False
                raise self._none(error.errno or errno.EIO) from error
        return True

    def _none(self, code: int) -> VfioError:
        meaning = "it has none that VFIO shows" if code == errno.ENOTTY else ""
        return VfioError(code, f"display of {self.device.address}", meaning=meaning)

    def __repr__(self) -> str:
        return f"<Display of {self.device.address}: {', '.join(kind.name for kind in self.types)}>"
