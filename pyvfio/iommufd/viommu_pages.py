"""ViommuPages: registers of an IOMMU that a virtual IOMMU lets the program use by itself."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.abi import mman
from pyvfio.errors import InvalidArgument
from pyvfio.explain import Meanings
from pyvfio.iommufd.iommufd import explain_iommufd
from pyvfio.kernel import WindowReleased, host_page_size, is_strongly_ordered, memory_barrier
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.iommufd.viommu import Viommu


class ViommuPages(Resource):
    """Registers that are mapped until it is closed. It is a child of its virtual IOMMU. Registers gives them names.

    viommu: the virtual IOMMU. size: bytes that are mapped.
    """

    def __init__(self, viommu: Viommu, offset: int, size: int) -> None:
        """Map them. Viommu.map() does.

        Raises ClosedError, InvalidArgument for a range that is not whole pages, and VfioError: ENXIO where the iommufd
        has no such pages. Source: mmap of /dev/iommu (Linux 6.17).
        """
        viommu.require_open()
        self.viommu = viommu
        self.kernel = viommu.kernel
        self.size = size
        operation, arguments = f"map pages of {viommu.name}", {"offset": offset, "size": size}
        if offset < 0 or size <= 0 or (offset | size) % host_page_size():
            raise InvalidArgument(errno.EINVAL, operation, arguments, f"not whole pages of {host_page_size():#_x}")
        protection = mman.PROT_READ | mman.PROT_WRITE
        try:
            self._address = self.kernel.mmap(size, protection, mman.MAP_SHARED, viommu.iommufd.fd, offset)
        except OSError as error:
            raise explain_iommufd(error, operation, arguments, _MEANINGS) from error
        self._window = self.kernel.window(self._address, size)
        super().__init__(viommu)

    def read_register(self, offset: int, width: int) -> int:
        """The register at offset, read by one access of width bytes: 1, 2, 4 or 8. offset is a multiple of width.

        Raises InvalidArgument where there is no such register.
        """
        self._check_place(offset, width)
        try:
            value = self._window.load(offset, width)
        except WindowReleased:
            self.require_open()
            raise
        if not is_strongly_ordered:
            memory_barrier()
        return value

    def write_register(self, offset: int, width: int, value: int) -> None:
        """Write the register at offset by one access of width bytes: 1, 2, 4 or 8. offset is a multiple of width.

        Raises InvalidArgument where there is no such register, or for a value that needs more than width bytes.
        """
        if not 0 <= value < 1 << 8 * width:
            meaning = "the value is too wide"
            raise InvalidArgument(errno.EINVAL, f"write {8 * width} bits", {"offset": offset, "value": value}, meaning)
        self._check_place(offset, width)
        if not is_strongly_ordered:
            memory_barrier()
        try:
            self._window.store(offset, width, value)
        except WindowReleased:
            self.require_open()
            raise

    def _check_place(self, offset: int, width: int) -> None:
        """Raises ClosedError, InvalidArgument for what is no register."""
        self.require_open()
        if width not in (1, 2, 4, 8) or offset % width or not 0 <= offset <= self.size - width:
            meaning = f"no register there: there are {self.size:#_x} bytes"
            raise InvalidArgument(errno.EINVAL, f"pages of {self.viommu.name}", {"offset": offset}, meaning)

    def _release(self) -> None:
        self._window.release()
        self.kernel.munmap(self._address, self.size)

    def __repr__(self) -> str:
        return f"<ViommuPages {self.size:#_x} bytes of {self.viommu!r}{' closed' if self._closed else ''}>"


_MEANINGS: Meanings = {
    errno.ENXIO: (
        "the iommufd has no such pages",
        "Viommu.data tells their offset and size: they are mapped as a whole",
    ),
    errno.EINVAL: ("this kernel lets nothing of an iommufd be mapped", "Linux 6.17 does"),
    errno.ENODEV: ("this kernel lets nothing of an iommufd be mapped", "Linux 6.17 does"),
}
