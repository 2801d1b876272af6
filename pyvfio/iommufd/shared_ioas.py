"""SharedIoas: an IOAS in an iommufd that another process owns, and has handed over."""

from __future__ import annotations

import errno

from pyvfio.dma import SharedSpace
from pyvfio.errors import VfioError
from pyvfio.iommufd.addresses import ask_info
from pyvfio.iommufd.ioas import Ioas
from pyvfio.iommufd.iommufd import Iommufd


class SharedIoas(SharedSpace, Ioas):
    """An Ioas that devices of another process are attached to, or will be: this object maps there.

    It unmaps only what was mapped through itself. One that was there before stays when this is closed; one that this
    object has made is destroyed with it, unless another process has a device attached there: then it stays, too.
    """

    def __init__(self, iommufd: Iommufd, ioas_id: int | None = None) -> None:
        """ioas_id: the number of an IOAS in iommufd; None to make one, whose number is id. It is iommufd's child.

        Raises VfioError if there is no such IOAS, ClosedError.
        """
        super().__init__(iommufd, ioas_id=ioas_id)

    def _obtain(self) -> int:
        if self._given_id is None:
            return super()._obtain()
        ask_info(self.iommufd, self._given_id, f"share IOAS {self._given_id}")
        return self._given_id

    def _destroy(self) -> None:
        self._unmap_all()
        if self._given_id is not None:
            self.iommufd.attachments.detach_all(self)
            return
        try:
            super()._destroy()
        except VfioError as error:
            if error.errno != errno.EBUSY:
                raise
