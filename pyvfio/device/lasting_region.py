"""LastingRegion: a region of a device for those who hold it as long as the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pyvfio.device.open_device import OpenDevice
from pyvfio.device.region import Region
from pyvfio.device.region_info import RegionInfo
from pyvfio.errors import ClosedError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")


class LastingRegion:
    """Reads and writes a region of a device as its Region does, and works as long as the device is open: whoever closes
    the Region of it, the next access opens it anew. Owns nothing.

    Every access raises what the Region's raises, and ClosedError only if the device is closed.
    device: the device. address: the device's. index: which region it is. info: what VFIO says of it. size: its bytes.
    """

    def __init__(self, device: OpenDevice, index: int, kind: type[Region] = Region) -> None:
        """kind: the class of the Region. Raises VfioError if the device has no such region."""
        self.device = device
        self.address = device.address
        self.index = index
        self._kind = kind
        self.info: RegionInfo = device.part(kind, index).info
        self.size = self.info.size

    def read8(self, offset: int) -> int:
        """Read the register of 8 bits at offset."""
        return self.read_register(offset, 1)

    def read16(self, offset: int) -> int:
        """Read the register of 16 bits at offset."""
        return self.read_register(offset, 2)

    def read32(self, offset: int) -> int:
        """Read the register of 32 bits at offset."""
        return self.read_register(offset, 4)

    def read64(self, offset: int) -> int:
        """Read the register of 64 bits at offset."""
        return self.read_register(offset, 8)

    def write8(self, offset: int, value: int) -> None:
        """Write the register of 8 bits at offset."""
        self.write_register(offset, 1, value)

    def write16(self, offset: int, value: int) -> None:
        """Write the register of 16 bits at offset."""
        self.write_register(offset, 2, value)

    def write32(self, offset: int, value: int) -> None:
        """Write the register of 32 bits at offset."""
        self.write_register(offset, 4, value)

    def write64(self, offset: int, value: int) -> None:
        """Write the register of 64 bits at offset."""
        self.write_register(offset, 8, value)

    def read_register(self, offset: int, width: int) -> int:
        """Read the register of width bytes (1, 2, 4 or 8) at offset."""
        return self._with(lambda region: region.read_register(offset, width))

    def write_register(self, offset: int, width: int, value: int) -> None:
        """Write the register of width bytes (1, 2, 4 or 8) at offset."""
        self._with(lambda region: region.write_register(offset, width, value))

    def read(self, offset: int, size: int) -> bytes:
        """Read size bytes from offset on, as Region.read() does."""
        return self._with(lambda region: region.read(offset, size))

    def write(self, offset: int, data: ReadableBuffer) -> None:
        """Write the bytes of data from offset on, as Region.write() does."""
        self._with(lambda region: region.write(offset, data))

    def _with(self, access: Callable[[Region], T]) -> T:
        """What access returns of the Region; of another one if it is closed before the access is made."""
        while True:
            region = self.device.part(self._kind, self.index)
            try:
                return access(region)
            except ClosedError:
                self.device.require_open()

    def __repr__(self) -> str:
        return f"<LastingRegion {self.index} of {self.address}, {self.size:#_x} bytes>"
