"""Displays: of simulated devices, and of mbochs and mdpy, the kernel's samples of mediated GPUs."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator

import pytest

from pyvfio import (
    ClosedError,
    Container,
    Device,
    Display,
    DrmPlaneType,
    GfxPlane,
    GfxPlaneType,
    InvalidArgument,
    Kernel,
    RegionIndex,
    VfioError,
)
from pyvfio.sim.devices import Bochs, Picture
from tests.support.kernels.mediated import mediated_device

pytestmark = pytest.mark.needs("type1", "mdev")

MODE = 0x500
X, Y, BITS, ENABLE = MODE + 2, MODE + 4, MODE + 6, MODE + 8
EDID = bytes(range(128))


@pytest.fixture
def bochs(kernel: Kernel) -> Iterator[Device]:
    """It shows what is in BAR 0, through a dma-buf."""
    with mediated_device(kernel, "mbochs", "small", Bochs) as device:
        yield device


@pytest.fixture
def picture(kernel: Kernel) -> Iterator[Device]:
    """It shows a region."""
    with mediated_device(kernel, "mdpy", "vga", Picture) as device:
        yield device


def set_mode(device: Device, width: int, height: int) -> None:
    registers = device.region(RegionIndex.BAR2)
    for register, value in ((X, width), (Y, height), (BITS, 32), (ENABLE, 1)):
        registers.write16(register, value)


def shown(display: Display) -> GfxPlane:
    """The primary plane. The sample asks to be asked again the first time after each change of mode."""
    try:
        plane = display.plane()
    except VfioError as error:
        if error.errno != errno.ENOMEM:
            raise
        plane = display.plane()
    assert plane is not None
    return plane


def test_pixels_of_a_dma_buf(bochs: Device, kernel: Kernel) -> None:
    display = bochs.display()
    assert display.types == (GfxPlaneType.DMABUF,)
    assert display.plane() is None
    set_mode(bochs, 640, 480)
    plane = shown(display)
    assert (plane.fourcc, plane.width, plane.height, plane.stride) == ("XR24", 640, 480, 2560)
    assert (plane.size, plane.region_index, plane.drm_format_mod) == (2560 * 480, None, 0)
    bochs.region(RegionIndex.BAR0).write32(2560 * 7 + 4 * 5, 0x00C0FFEE)
    fd = display.dma_buf(plane)
    try:
        assert os.lseek(fd, 0, os.SEEK_END) >= plane.size
        assert not os.get_inheritable(fd)
        if kernel.name == "simulated":
            # mbochs maps only what can be written, and hands out what can only be read: other devices may have it.
            with mmap.mmap(fd, plane.size, access=mmap.ACCESS_READ) as pixels:
                assert pixels[2560 * 7 + 4 * 5 :][:4] == bytes.fromhex("eeffc000")
    finally:
        os.close(fd)


def test_each_mode_is_a_plane_of_its_own(bochs: Device) -> None:
    display = bochs.display()
    set_mode(bochs, 640, 480)
    first = shown(display)
    set_mode(bochs, 800, 600)
    second = shown(display)
    assert (second.width, second.height) == (800, 600)
    assert first.dmabuf_id != second.dmabuf_id
    assert display.plane(DrmPlaneType.CURSOR) is None
    set_mode(bochs, 1, 1)
    assert display.plane() is None


def test_pixels_of_a_region(picture: Device) -> None:
    display = picture.display()
    assert display.types == (GfxPlaneType.REGION,)
    plane = display.plane()
    assert plane is not None
    assert (plane.fourcc, plane.width, plane.height, plane.stride) == ("XR24", 640, 480, 2560)
    assert (plane.dmabuf_id, plane.drm_plane_type) == (None, DrmPlaneType.PRIMARY)
    assert plane.region_index is not None
    region = picture.region(plane.region_index)
    assert region.size >= plane.size
    region.write32(2560 * 7 + 4 * 5, 0x00C0FFEE)
    assert region.read32(2560 * 7 + 4 * 5) == 0x00C0FFEE
    with pytest.raises(InvalidArgument, match=f"in region {plane.region_index}"):
        display.dma_buf(plane)


def test_what_a_display_cannot(bochs: Device, container: Container) -> None:
    display = bochs.display()
    with pytest.raises(VfioError, match="no such plane") as caught:
        display.plane(gfx_plane_type=GfxPlaneType.REGION)
    assert caught.value.errno == errno.EINVAL
    set_mode(bochs, 640, 480)
    plane = shown(display)
    gone = GfxPlane(plane.drm_plane_type, *(0,) * 10, None, 4711)
    with pytest.raises(VfioError, match="no longer shown") as caught:
        display.dma_buf(gone)
    assert caught.value.errno == errno.ENOENT
    (group,) = container.groups
    (edu,) = [child for child in group._children if isinstance(child, Device)]
    with pytest.raises(VfioError, match="none that VFIO shows") as caught:
        edu.display()
    assert caught.value.errno == errno.ENOTTY


def test_a_monitor(bochs: Device, picture: Device) -> None:
    edid = bochs.display().edid()
    assert (edid.max_size, edid.max_resolution) == (1024, (800, 600))
    edid.connect(EDID)
    for index in range(RegionIndex.VGA + 1, bochs.info.num_regions):
        bochs.region(index).close()
    assert (edid.connected, edid.data) == (True, EDID)
    edid.disconnect()
    assert not edid.connected
    with pytest.raises(InvalidArgument, match="1 to 1024 bytes"):
        edid.connect(bytes(1025))
    with pytest.raises(VfioError, match="no region for one"):
        picture.display().edid()


def test_the_display_of_a_closed_device_says_so(bochs: Device) -> None:
    display = bochs.display()
    bochs.close()
    with pytest.raises(ClosedError):
        display.plane()
    with pytest.raises(ClosedError):
        display.edid()
