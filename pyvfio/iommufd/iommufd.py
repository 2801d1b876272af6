"""Iommufd: /dev/iommu, whose objects are address spaces, IO page tables and the devices bound to it."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from collections.abc import Mapping
from functools import partial
from typing import Self

from pyvfio.abi import iommufd as abi
from pyvfio.errors import VfioError
from pyvfio.explain import Meanings, explain, open_failure
from pyvfio.iommufd.attachments import Attachments
from pyvfio.kernel import Descriptor, Kernel, LinuxKernel, is_registered
from pyvfio.resource import Resource

_MEANINGS: Meanings = {
    errno.ENOTTY: ("this kernel's iommufd does not offer it", "A newer kernel does: linux/iommufd.h tells since when"),
    errno.EOPNOTSUPP: ("this kernel, or the IOMMU behind the device, does not offer it", "See HardwareInfo"),
    errno.ENOENT: ("the object is gone from the iommufd", "It was destroyed through another copy of the descriptor"),
    errno.EBUSY: ("something else still uses it", "Close that first"),
    errno.EFAULT: ("it cannot reach memory that it was handed", "Keep it mapped until the call returns"),
}

# How IOMMU_IOAS_MAP_FILE may refuse a call of no address space, no access, no size and no file.
_KNOWN = (errno.EBADF, errno.EINVAL, errno.ENOENT)


class RlimitMode(enum.IntEnum):
    """Whose RLIMIT_MEMLOCK pinned memory is charged against; the values of IOMMU_OPTION_RLIMIT_MODE."""

    USER = 0
    """The limit holds for the sum of what all processes of the user have pinned through iommufd and io_uring."""
    PROCESS = 1
    """The limit holds for what the process that maps has pinned, as with a VFIO container."""


class Iommufd(Resource):
    """An open /dev/iommu. Its address spaces (Ioas) and the devices bound to it are its children.

    kernel: the kernel that opened it. descriptor: its descriptor. path: the node, or "fd N" for a descriptor that was
    handed over. attachments: which of its devices is attached to what; the devices write it.
    """

    def __init__(self, *, kernel: Kernel | None = None, path: str = "/dev/iommu", fd: int | None = None) -> None:
        """Open path; or take over fd, a descriptor of an iommufd that is open already.

        kernel: the kernel to open it in; None for the running one. fd is closed with the object.
        Raises VfioError that says what is missing if the node cannot be opened.
        """
        self.kernel = kernel or LinuxKernel()
        self.path = path
        self.attachments = Attachments()
        self._maps_files: bool | None = None
        try:
            opened = self.kernel.open(path, os.O_RDWR) if fd is None else fd
        except OSError as error:
            raise open_failure(
                error, "open iommufd", path, "iommufd", is_there=is_registered(self.kernel, path)
            ) from error
        self.descriptor = Descriptor(opened, f"iommufd {path}", partial(self.kernel.close, opened))
        super().__init__()

    @property
    def fd(self) -> int:
        """The number of the descriptor, which is the iommufd's until it is closed."""
        return self.descriptor.number

    @classmethod
    def from_fd(cls, fd: int, *, kernel: Kernel | None = None) -> Self:
        """An iommufd from a descriptor that is open already. Takes fd over: it is closed with the object."""
        return cls(kernel=kernel, path=f"fd {fd}", fd=fd)

    @property
    def rlimit_mode(self) -> RlimitMode:
        """How pinned memory is charged: RlimitMode.USER unless it was changed.

        Setting it raises VfioError without CAP_SYS_RESOURCE (EPERM), and once the iommufd has an object (EBUSY).
        Source: IOMMU_OPTION_RLIMIT_MODE.
        """
        option = abi.iommu_option(option_id=abi.IOMMU_OPTION_RLIMIT_MODE, op=abi.IOMMU_OPTION_OP_GET)
        self.call(abi.IOMMU_OPTION, option, "rlimit_mode")
        return RlimitMode(option.val64)

    @rlimit_mode.setter
    def rlimit_mode(self, mode: RlimitMode) -> None:
        option = abi.iommu_option(option_id=abi.IOMMU_OPTION_RLIMIT_MODE, op=abi.IOMMU_OPTION_OP_SET)
        option.val64 = int(mode)
        meanings = {
            errno.EBUSY: ("the iommufd has objects already", "Choose the mode right after opening it"),
            errno.EPERM: ("only CAP_SYS_RESOURCE may choose", "Run it as root, or keep the mode"),
        }
        self.call(abi.IOMMU_OPTION, option, "set rlimit_mode", {"mode": mode.name}, meanings)

    @property
    def compatibility_ioas(self) -> int | None:
        """The id of the address space that VFIO container ioctls on this iommufd work on; None if there is none.

        Set it to the id of an Ioas, or to None to have none. Groups that are attached to the iommufd use the new one
        for the devices that are opened afterwards. Raises VfioError. Source: IOMMU_VFIO_IOAS.
        """
        argument = abi.iommu_vfio_ioas(op=abi.IOMMU_VFIO_IOAS_GET)
        try:
            self.call(abi.IOMMU_VFIO_IOAS, argument, "compatibility_ioas")
        except VfioError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return argument.ioas_id

    @compatibility_ioas.setter
    def compatibility_ioas(self, ioas_id: int | None) -> None:
        operation = abi.IOMMU_VFIO_IOAS_CLEAR if ioas_id is None else abi.IOMMU_VFIO_IOAS_SET
        argument = abi.iommu_vfio_ioas(op=operation, ioas_id=ioas_id or 0)
        self.call(abi.IOMMU_VFIO_IOAS, argument, "set compatibility_ioas", {"id": ioas_id})

    def change_process(self) -> None:
        """Charge every mapping to the calling process from now on, after a fork or an exec for example.

        Raises VfioError: EINVAL unless every mapping is of memory with a file (MEMFD, HUGETLB), ENOTTY before
        Linux 6.14. Source: IOMMU_IOAS_CHANGE_PROCESS.
        """
        meanings = {errno.EINVAL: ("some mapping is of memory without a file", "Map memory of kind MEMFD or HUGETLB")}
        self.call(abi.IOMMU_IOAS_CHANGE_PROCESS, abi.iommu_ioas_change_process(), "change process", {}, meanings)

    def maps_files(self) -> bool:
        """Whether the kernel has IOMMU_IOAS_MAP_FILE (Linux 6.13), found out with a call that maps nothing.

        As long as the kernel has no room or time to say, it is False, and the kernel is asked again.
        """
        if self._maps_files is None:
            try:
                self.kernel.ioctl(self.fd, abi.IOMMU_IOAS_MAP_FILE, abi.iommu_ioas_map_file(fd=-1))
            except OSError as error:
                if error.errno in (errno.ENOTTY, *_KNOWN):
                    self._maps_files = error.errno != errno.ENOTTY
        return bool(self._maps_files)

    def hand_over(self) -> None:
        """Close it with all of its objects, and change nothing: what is mapped stays, and devices go on.

        Another process that was passed the descriptors of it and of its devices goes on with from_fd(), Ioas.from_id()
        and take_up(). The kernel undoes it all when the last one closes them. A failure leaves it closed.
        """
        self._hand_over()

    def call(
        self,
        request: int,
        argument: ctypes.Structure,
        operation: str,
        arguments: Mapping[str, object] | None = None,
        meanings: Meanings | None = None,
    ) -> None:
        """Make one ioctl on the iommufd, which reads argument and writes its answer there.

        operation and arguments: what a message says was tried. Raises ClosedError, and VfioError, whose errno is
        explained by meanings first and then by what it means for every ioctl of an iommufd.
        """
        self.require_open()
        with self.descriptor.in_use() as fd:
            try:
                self.kernel.ioctl(fd, request, argument)
            except OSError as error:
                raise explain_iommufd(error, operation, arguments, meanings) from error

    def destroy(self, object_id: int, what: str) -> None:
        """Destroy the object with this number. what: the object's name, for messages.

        Raises VfioError: EBUSY while something else uses the object. Source: IOMMU_DESTROY.
        """
        with self.descriptor.in_use() as fd:
            try:
                self.kernel.ioctl(fd, abi.IOMMU_DESTROY, abi.iommu_destroy(id=object_id))
            except OSError as error:
                raise explain_iommufd(error, f"destroy {what}", {"id": object_id}) from error

    def _release(self) -> None:
        self.descriptor.close()

    def __repr__(self) -> str:
        return f"<Iommufd {self.path}{' closed' if self._closed else ''}>"


def explain_iommufd(
    error: OSError,
    operation: str,
    arguments: Mapping[str, object] | None = None,
    meanings: Meanings | None = None,
) -> VfioError:
    """The refusal of an ioctl of an iommufd in words: by meanings first, then by what it means for all of them."""
    return explain(error, operation, arguments, {**_MEANINGS, **(meanings or {})})
