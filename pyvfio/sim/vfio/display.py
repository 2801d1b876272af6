"""What VFIO tells of a device's display. Source: linux/vfio.h, VFIO_DEVICE_QUERY_GFX_PLANE; samples/vfio-mdev."""

from __future__ import annotations

import errno

from pyvfio.abi import vfio
from pyvfio.sim.devices import Screen
from pyvfio.sim.process import UserMemory, fail

_XRGB8888 = int.from_bytes(b"XR24", "little")
_PRIMARY = 1
_PLANE_SIZE = 60


def query_plane(screen: Screen, user: UserMemory) -> int:
    """Tell of the primary plane, in place."""
    plane = user.struct(vfio.vfio_device_gfx_plane_info, _PLANE_SIZE)
    if plane.argsz < _PLANE_SIZE:
        raise fail(errno.EINVAL)
    is_probe = plane.flags & vfio.VFIO_GFX_PLANE_TYPE_PROBE
    if plane.flags & ~vfio.VFIO_GFX_PLANE_TYPE_PROBE != screen.gfx_plane_type:
        raise fail(errno.EINVAL)
    if is_probe:
        return 0
    answer = vfio.vfio_device_gfx_plane_info(flags=plane.flags, drm_plane_type=plane.drm_plane_type)
    answer.argsz = plane.argsz
    if plane.drm_plane_type == _PRIMARY and (shown := screen.shown()) is not None:
        answer.drm_format, answer.width, answer.height = _XRGB8888, shown.width, shown.height
        answer.stride, answer.size, answer.region_index = 4 * shown.width, shown.size, shown.place
    user.write(bytes(answer)[:_PLANE_SIZE])
    return 0


def dma_buf(screen: Screen, user: UserMemory) -> int:
    """A new descriptor of a plane. Raises OSError: ENOTTY for a device that shows a region, ENOENT for no plane."""
    dmabuf_id = user.u32(0)
    if screen.gfx_plane_type != vfio.VFIO_GFX_PLANE_TYPE_DMABUF:
        raise fail(errno.ENOTTY)
    try:
        return screen.dma_buf(dmabuf_id)
    except KeyError:
        raise fail(errno.ENOENT) from None
