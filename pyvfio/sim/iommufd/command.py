"""How iommufd takes its commands. Source: drivers/iommu/iommufd/main.c, iommufd_fops_ioctl and iommufd_ioctl_ops."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from pyvfio.sim.iommu import Version
from pyvfio.sim.process import S, UserMemory, fail


def refuse(bits: int) -> None:
    """Raises OSError(EOPNOTSUPP) if any bit is set: what iommufd does not know, it does not support."""
    if bits:
        raise fail(errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Command(Generic[S]):
    """One ioctl of an iommufd.

    layout: its struct; smallest: how many bytes of it a program must pass. since: the first Linux that has it.
    needs_raw_io: it takes CAP_SYS_RAWIO. ignores_reserved: the kernel does not look at the field __reserved, which must
    be zero in all other commands. when_reserved: called before one with a reserved field that is not zero is refused.
    """

    layout: type[S]
    smallest: int
    execute: Callable[[UserMemory, S], None]
    since: Version = (6, 2)
    needs_raw_io: bool = False
    ignores_reserved: bool = False
    when_reserved: Callable[[UserMemory], None] | None = None

    def run(self, user: UserMemory) -> int:
        """Copy the struct in, check it and execute the command. Raises OSError as the kernel does."""
        command = user.extensible(self.layout, self.smallest)
        if self.needs_raw_io:
            user.process.require_raw_io()
        if not self.ignores_reserved and _reserved(command):
            if self.when_reserved is not None:
                self.when_reserved(user)
            raise fail(errno.EOPNOTSUPP)
        self.execute(user, command)
        return 0


def _reserved(command: S) -> bool:
    """Whether the field __reserved, if the struct has one, is not zero."""
    place = vars(type(command)).get("__reserved")
    return place is not None and any(bytes(command)[place.offset : place.offset + place.size])
