"""DmaLog: every DMA map and unmap, in order; and LoggedKernel, a simulated kernel that tells it of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from pyvfio.abi import vfio
from pyvfio.kernel import IoctlArgument
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices import VFIO_DRIVER


@dataclass(frozen=True, slots=True)
class DmaCall:
    """A map of one mapping, or an unmap of one range.

    mapper: the number of the address space. operation: "map" or "unmap". iova, size: bytes. errno: why a map was
    refused; None if it was not.
    """

    mapper: int
    operation: str
    iova: int
    size: int
    errno: int | None = None

    def as_list(self) -> list[int | str]:
        """The call as a replay prints it: mapper, operation, iova, size, and the errno if it was refused."""
        call: list[int | str] = [self.mapper, self.operation, self.iova, self.size]
        return call if self.errno is None else [*call, self.errno]


class DmaLog:
    """The DMA calls of all mappers in the order in which they were made, and which maps are to be refused."""

    def __init__(self) -> None:
        self._calls: list[DmaCall] = []
        self._refused: dict[tuple[int, int], int] = {}
        self._maps: dict[int, int] = {}

    def refuse_map(self, mapper: int, nth: int, errno: int) -> None:
        """Let the nth map of mapper from now on, counted from 0, fail with errno, until forget_refusals()."""
        self._refused[mapper, self._maps.get(mapper, 0) + nth] = errno

    def map(self, mapper: int, iova: int, size: int) -> None:
        """mapper is about to make one mapping. Raises OSError if it is to fail."""
        count = self._maps.get(mapper, 0)
        self._maps[mapper] = count + 1
        refusal = self._refused.get((mapper, count))
        self._calls.append(DmaCall(mapper, "map", iova, size, refusal))
        if refusal is not None:
            raise OSError(refusal, os.strerror(refusal))

    def map_failed(self, errno: int | None) -> None:
        """The kernel refused the map that came last."""
        self._calls[-1] = replace(self._calls[-1], errno=errno)

    def unmap(self, mapper: int, iova: int, size: int) -> None:
        """mapper is about to unmap a range with one call."""
        self._calls.append(DmaCall(mapper, "unmap", iova, size))

    def take(self) -> tuple[DmaCall, ...]:
        """The calls since the last take()."""
        calls, self._calls = tuple(self._calls), []
        return calls

    def forget_refusals(self) -> None:
        """Let no later map fail."""
        self._refused.clear()
        self._maps.clear()


class LoggedKernel(SimKernel):
    """A simulated machine that tells a log of its DMA calls. It has one device, in a group of its own, for each mapper.

    Its IOMMU translates all addresses, and it takes no pages when it maps, so a region may be larger than the host's
    memory. The limit on mappings is the usual one.
    """

    def __init__(self, mappers: int, log: DmaLog) -> None:
        """mappers: how many there are. log: what is told of their calls."""
        super().__init__(iova_ranges=[(0, (1 << 64) - 1)], populate_on_pin=False)
        self._log = log
        self._watched: dict[int, int] = {}
        for number in range(mappers):
            address = f"{number >> 13:04x}:{number >> 5 & 0xFF:02x}:{number & 0x1F:02x}.0"
            self.add(PciFunction(address, group=number, driver=VFIO_DRIVER))

    def watch(self, fd: int, mapper: int) -> None:
        """fd is the container of mapper: log what is mapped and unmapped through it."""
        self._watched[fd] = mapper

    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0) -> int:
        mapper = self._watched.get(fd)
        if mapper is not None and isinstance(argument, vfio.vfio_iommu_type1_dma_map):
            self._log.map(mapper, argument.iova, argument.size)
            try:
                return super().ioctl(fd, request, argument)
            except OSError as error:
                self._log.map_failed(error.errno)
                raise
        if mapper is not None and isinstance(argument, vfio.vfio_iommu_type1_dma_unmap):
            self._log.unmap(mapper, argument.iova, argument.size)
        return super().ioctl(fd, request, argument)
