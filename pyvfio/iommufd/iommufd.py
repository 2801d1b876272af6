"""Iommufd: /dev/iommu, whose objects are address spaces, IO page tables and the devices bound to it."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from collections.abc import Mapping
from typing import Self

from pyvfio.abi import iommufd
from pyvfio.errors import VfioError
from pyvfio.explain import Meanings, explain, open_failure
from pyvfio.kernel import Kernel, LinuxKernel
from pyvfio.resource import Resource

_MEANINGS: Meanings = {
    errno.ENOTTY: ("this kernel's iommufd does not offer it", "A newer kernel does: linux/iommufd.h tells since when"),
    errno.EOPNOTSUPP: ("this kernel, or the IOMMU behind the device, does not offer it", "See HardwareInfo"),
    errno.ENOENT: ("the object is gone from the iommufd", "It was destroyed through another copy of the descriptor"),
    errno.EBUSY: ("something else still uses it", "Close that first"),
    errno.EFAULT: ("it cannot reach memory that it was handed", "Keep it mapped until the call returns"),
}


class RlimitMode(enum.IntEnum):
    """Whose RLIMIT_MEMLOCK pinned memory is charged against; the values of IOMMU_OPTION_RLIMIT_MODE."""

    USER = 0
    """All of the user's processes together, io_uring included."""
    PROCESS = 1
    """The process that maps, as a VFIO container does."""


class Iommufd(Resource):
    """An open /dev/iommu. Its address spaces (Ioas) and the devices bound to it are its children."""

    def __init__(self, *, kernel: Kernel | None = None, path: str = "/dev/iommu") -> None:
        """Raises VfioError that says what is missing if the node cannot be opened."""
        kernel = kernel or LinuxKernel()
        try:
            fd = kernel.open(path, os.O_RDWR)
        except OSError as error:
            raise open_failure(error, "open iommufd", path, "iommufd") from error
        self._take(kernel, fd, path)

    @classmethod
    def from_fd(cls, fd: int, *, kernel: Kernel | None = None) -> Self:
        """An iommufd of a descriptor that is open already. Takes fd over: it is closed with the object."""
        self = cls.__new__(cls)
        self._take(kernel or LinuxKernel(), fd, f"fd {fd}")
        return self

    def _take(self, kernel: Kernel, fd: int, path: str) -> None:
        self.kernel = kernel
        self.fd = fd
        self.path = path
        super().__init__()

    @property
    def rlimit_mode(self) -> RlimitMode:
        """How pinned memory is charged. USER unless changed. Source: IOMMU_OPTION_RLIMIT_MODE."""
        option = iommufd.iommu_option(option_id=iommufd.IOMMU_OPTION_RLIMIT_MODE, op=iommufd.IOMMU_OPTION_OP_GET)
        self.call(iommufd.IOMMU_OPTION, option, "rlimit_mode")
        return RlimitMode(option.val64)

    @rlimit_mode.setter
    def rlimit_mode(self, mode: RlimitMode) -> None:
        """Raises VfioError without CAP_SYS_RESOURCE (EPERM), or once anything was made in the iommufd (EBUSY)."""
        option = iommufd.iommu_option(option_id=iommufd.IOMMU_OPTION_RLIMIT_MODE, op=iommufd.IOMMU_OPTION_OP_SET)
        option.val64 = int(mode)
        meanings = {
            errno.EBUSY: ("the iommufd has objects already", "Choose the mode right after opening it"),
            errno.EPERM: ("only CAP_SYS_RESOURCE may choose", "Run it as root, or keep the mode"),
        }
        self.call(iommufd.IOMMU_OPTION, option, "set rlimit_mode", {"mode": mode.name}, meanings)

    @property
    def compatibility_ioas(self) -> int | None:
        """The id of the address space that VFIO container ioctls on this iommufd work on; None if there is none.

        Source: IOMMU_VFIO_IOAS.
        """
        argument = iommufd.iommu_vfio_ioas(op=iommufd.IOMMU_VFIO_IOAS_GET)
        try:
            self.call(iommufd.IOMMU_VFIO_IOAS, argument, "compatibility_ioas")
        except VfioError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return argument.ioas_id

    @compatibility_ioas.setter
    def compatibility_ioas(self, ioas_id: int | None) -> None:
        """The Ioas's id; None for none. Groups attached to the iommufd use it from the next device opened on."""
        operation = iommufd.IOMMU_VFIO_IOAS_CLEAR if ioas_id is None else iommufd.IOMMU_VFIO_IOAS_SET
        argument = iommufd.iommu_vfio_ioas(op=operation, ioas_id=ioas_id or 0)
        self.call(iommufd.IOMMU_VFIO_IOAS, argument, "set compatibility_ioas", {"id": ioas_id})

    def change_process(self) -> None:
        """Charge every mapping to the calling process from now on: after a fork or an exec, say. Linux 6.14.

        Raises VfioError (EINVAL) unless every mapping is of memory with a file (MEMFD, HUGETLB).
        Source: IOMMU_IOAS_CHANGE_PROCESS.
        """
        meanings = {errno.EINVAL: ("some mapping is of memory without a file", "Map memory of kind MEMFD or HUGETLB")}
        self.call(
            iommufd.IOMMU_IOAS_CHANGE_PROCESS, iommufd.iommu_ioas_change_process(), "change process", {}, meanings
        )

    def call(
        self,
        request: int,
        argument: ctypes.Structure,
        operation: str,
        arguments: Mapping[str, object] | None = None,
        meanings: Meanings | None = None,
    ) -> None:
        """One ioctl of the iommufd. Raises VfioError, explained by meanings before what holds for all of them."""
        self._check_open()
        try:
            self.kernel.ioctl(self.fd, request, argument)
        except OSError as error:
            raise explain_iommufd(error, operation, arguments, meanings) from error

    def destroy(self, object_id: int, what: str) -> None:
        """Destroy an object. Raises VfioError (EBUSY) while another uses it. Source: IOMMU_DESTROY."""
        try:
            self.kernel.ioctl(self.fd, iommufd.IOMMU_DESTROY, iommufd.iommu_destroy(id=object_id))
        except OSError as error:
            raise explain_iommufd(error, f"destroy {what}", {"id": object_id}) from error

    def _release(self) -> None:
        self.kernel.close(self.fd)

    def __repr__(self) -> str:
        return f"<Iommufd {self.path}{' closed' if self._closed else ''}>"


def explain_iommufd(
    error: OSError,
    operation: str,
    arguments: Mapping[str, object] | None = None,
    meanings: Meanings | None = None,
) -> VfioError:
    """What an errno of iommufd's means, by meanings or by what holds for all of its ioctls."""
    return explain(error, operation, arguments, {**_MEANINGS, **(meanings or {})})
