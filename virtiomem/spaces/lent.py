"""Address spaces of another process, which has handed their descriptors over."""

from __future__ import annotations

import enum
import errno
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack

from pyvfio.container import IommuType, SharedContainer
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.iommufd import Iommufd, SharedIoas
from pyvfio.kernel import Kernel
from virtiomem.spaces.open_space import OpenSpace, SpaceKind


class LentType(enum.StrEnum):
    """Which rules the container has that was handed over: what its owner gave VFIO_SET_IOMMU."""

    TYPE1 = "type1"
    TYPE1V2 = "type1v2"

    @property
    def iommu_type(self) -> IommuType:
        """The same by its number."""
        return IommuType.TYPE1 if self is LentType.TYPE1 else IommuType.TYPE1v2


Received = Callable[[int], int]
"""Makes of a descriptor of this process, which it takes over, one of the kernel that maps; the same on Linux."""


def as_received(fd: int) -> int:
    """A Received for LinuxKernel."""
    return fd


def lent_container(
    fd: int, name: str, kernel: Kernel, *, lent_type: LentType = LentType.TYPE1V2, received: Received = as_received
) -> OpenSpace:
    """The address space of a container that another process has put its groups in. It stays that process's.

    Takes fd over. name: what the host calls it. Raises InvalidArgument if fd is of another kind, and VfioError if the
    container has no IOMMU, as no group is in it; fd is closed then.
    """
    _require_node(fd, "container")
    with ExitStack() as stack:
        space = stack.enter_context(
            SharedContainer.from_fd(received(fd), kernel=kernel, iommu_type=lent_type.iommu_type)
        )
        return OpenSpace(name, space, stack.pop_all(), kind=SpaceKind.CONTAINER, is_lent=True)


def lent_iommufd(
    fd: int, name: str, kernel: Kernel, *, ioas_id: int | None = None, received: Received = as_received
) -> OpenSpace:
    """An address space in the iommufd of another process, which attaches its devices to it.

    Takes fd over. name: what the host calls it. ioas_id: the number of an IOAS that is there already, and stays; None
    to make one. Raises InvalidArgument if fd is of another kind, and VfioError if there is no such IOAS; fd is closed
    then.
    """
    _require_node(fd, "iommufd")
    with ExitStack() as stack:
        iommufd = stack.enter_context(Iommufd.from_fd(received(fd), kernel=kernel))
        try:
            _ = iommufd.compatibility_ioas
        except VfioError as error:
            raise _not_of_kind(fd, "iommufd", "it takes none of an iommufd's calls") from error
        space = stack.enter_context(SharedIoas(iommufd, ioas_id))
        return OpenSpace(name, space, stack.pop_all(), kind=SpaceKind.IOMMUFD, ioas_id=space.id, is_lent=True)


def _require_node(fd: int, what: str) -> None:
    """Raises InvalidArgument for a file, a socket, or whatever else is no device node's; fd is closed then.

    What a driver makes of another's ioctl nobody knows: those are kept for what can be asked.
    """
    try:
        is_node = stat.S_ISCHR(os.fstat(fd).st_mode)
    except OSError:
        is_node = False
    if not is_node:
        os.close(fd)
        raise _not_of_kind(fd, what, "it is of no device node")


def _not_of_kind(fd: int, what: str, meaning: str) -> InvalidArgument:
    advice = "Hand over the descriptor of " + ("/dev/vfio/vfio" if what == "container" else "/dev/iommu")
    return InvalidArgument(errno.EINVAL, f"take over a descriptor as {what}", {"fd": fd}, meaning, advice)
