"""The demonstration: plug blocks, let devices use them, unplug them, and prove every step with DMA."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TextIO

from pyvfio import Container, InvalidArgument, Kernel, Memory, MemoryKind, VfioError
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.host import bind, restore
from pyvfio.sysfs import pci_device
from pyvfio.units import format_size
from virtiomem.device import Events, Request, RequestRefused, RequestType, Response, ResponseType
from virtiomem.draw import bar
from virtiomem.mapping import joined
from virtiomem.runs import Run
from virtiomem.trace import RecordedVirtioMem

REGION_ADDRESS = 0x1_0000_0000
STAGING_IOVA = 0x1000_0000
STAGING_SIZE = 2 << 20
TRANSFER = 2048
"""Bytes that a device moves at a time."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to show. Sizes are bytes.

    kernel: the one that memory and devices are of. devices: PCI addresses of edu devices. memory_kind: what backs the
    region. page_size: of huge pages; None for the kind's own. plug: how much to plug, rounded up to whole blocks.
    record: where the trace of the guest's requests goes; None for no trace.
    """

    kernel: Kernel
    devices: Sequence[str]
    memory_kind: MemoryKind = MemoryKind.ANONYMOUS
    page_size: int | None = None
    region_size: int = 1 << 30
    block_size: int = 2 << 20
    plug: int = 100 << 20
    record: TextIO | None = None


@dataclass(frozen=True, slots=True)
class AddressSpaceResult:
    """The calls that the address space of one device took.

    device: its PCI address. map_calls: while the blocks were plugged, or while the device joined. unmap_calls: while
    they were unplugged.
    """

    device: str
    map_calls: int
    unmap_calls: int


@dataclass(frozen=True, slots=True)
class Result:
    """What happened. Sizes are bytes.

    kernel: its name. memory_kind: what backed the region. plugged_bytes: how much was plugged. map_calls, unmap_calls:
    those of each address space, which all had the same. dma_verified_bytes: how many bytes devices moved that were
    checked. faults_stopped: how many DMA writes to unplugged blocks the IOMMU stopped. zeroed_blocks: how many blocks
    read as zeros when they were plugged again. address_spaces: one for each device.
    """

    kernel: str
    memory_kind: str
    region_size: int
    block_size: int
    plugged_bytes: int
    map_calls: int
    unmap_calls: int
    dma_verified_bytes: int
    faults_stopped: int
    zeroed_blocks: int
    address_spaces: tuple[AddressSpaceResult, ...]


class Mismatch(Exception):
    """A step did not have the effect that it must have; the text says which."""


@dataclass(slots=True)
class _Joined:
    """A device in a container of its own, which the region's blocks are mapped into."""

    address: str
    container: Container
    engine: Edu
    map_calls: int = 0
    unmap_calls: int = 0


@contextmanager
def found_devices(kernel: Kernel, wanted: Sequence[str]) -> Iterator[list[str]]:
    """The addresses of the devices to use: wanted, or every edu device if that is just "auto".

    With "auto" the devices are bound to vfio-pci for the length of the with block. Raises InvalidArgument or
    DeviceNotBound for an address that no device has, and VfioError if there is no edu device.
    """
    if list(wanted) != ["auto"]:
        yield [pci_device(kernel, address).address for address in wanted]
        return
    with ExitStack() as stack:
        addresses = edu_addresses(kernel)
        if not addresses:
            raise VfioError(
                errno.ENODEV,
                "find edu devices",
                meaning="this machine has none",
                advice="tools/vm boots one that does: tools/vm -- virtiomem demo --device auto",
            )
        for address in addresses:
            stack.callback(restore, kernel, bind(kernel, address))
        yield addresses


def run(options: Options, say: Callable[[str], None]) -> Result:
    """Show it all, and say a line for each step. Raises Mismatch for a wrong result, and VfioError for what failed."""
    return _Demo(options, say).run()


class _Failures(Events):
    """Keeps why the last request was refused."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None

    def request_refused(self, request: Request, error: RequestRefused) -> None:  # noqa: ARG002 (the event's signature)
        self.failure = error.__cause__ or error


class _Demo:
    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        if not options.devices:
            raise InvalidArgument(errno.EINVAL, "demo", meaning="it needs a device that does DMA")
        self.options = options
        self.say = say
        self.events = _Failures()
        self.joined: list[_Joined] = []
        self.verified = 0
        self.stopped = 0
        self.random = random.Random(24)

    def run(self) -> Result:
        options = self.options
        blocks = -(-options.plug // options.block_size)
        with ExitStack() as stack:
            self.staging = stack.enter_context(
                Memory.allocate(MemoryKind.ANONYMOUS, STAGING_SIZE, kernel=options.kernel)
            )
            self.staging.populate(0, STAGING_SIZE)
            self.memory = stack.enter_context(
                Memory.allocate(
                    options.memory_kind, options.region_size, page_size=options.page_size, kernel=options.kernel
                )
            )
            self.device = stack.enter_context(
                RecordedVirtioMem(
                    self.memory,
                    address=REGION_ADDRESS,
                    block_size=options.block_size,
                    events=self.events,
                )
            )
            if options.record is not None:
                self.device.record(options.record, mappers=len(options.devices[:2]))
            if blocks > options.region_size // options.block_size:
                raise InvalidArgument(
                    errno.EINVAL, "demo", {"plug": options.plug}, "more than the region", "Ask for a smaller --plug"
                )
            self.say(
                f"region   {format_size(options.region_size)} of {options.memory_kind.value} memory at "
                f"{REGION_ADDRESS:#x}, blocks of {format_size(options.block_size)}, nothing plugged"
            )
            first, *others = options.devices
            self._join(stack, first)
            self._plug(blocks)
            self._use(self.joined[0], range(blocks))
            for address in others[:1]:
                self._join(stack, address)
                self._use(self.joined[1], sorted({0, blocks // 2, blocks - 1}))
            plugged = self.device.config.plugged_size
            self._show_map()
            self._unplug(blocks)
            self._prove_out_of_reach()
            zeroed = self._plug_again(blocks)
            self._unplug(blocks, again=True)
        self._expect(all(space.container.closed for space in self.joined), "a container is still open")
        spaces = tuple(AddressSpaceResult(space.address, space.map_calls, space.unmap_calls) for space in self.joined)
        self._expect(len({(space.map_calls, space.unmap_calls) for space in spaces}) == 1, "address spaces differ")
        return Result(
            kernel=options.kernel.name,
            memory_kind=options.memory_kind.value,
            region_size=options.region_size,
            block_size=options.block_size,
            plugged_bytes=plugged,
            map_calls=spaces[0].map_calls,
            unmap_calls=spaces[0].unmap_calls,
            dma_verified_bytes=self.verified,
            faults_stopped=self.stopped,
            zeroed_blocks=zeroed,
            address_spaces=spaces,
        )

    def _join(self, stack: ExitStack, address: str) -> None:
        """Open a device in a container of its own, and let it reach what is plugged."""
        container = stack.enter_context(Container(kernel=self.options.kernel))
        engine = stack.enter_context(Edu(container.open_device(address)))
        container.map_dma(STAGING_IOVA, self.staging, 0, STAGING_SIZE)
        space = _Joined(address, container, engine)
        before = container.calls
        stack.enter_context(joined(container, self.device.discards, self.device.section))
        space.map_calls = container.calls.map - before.map
        self.joined.append(space)
        held = f", with {space.map_calls} mappings of what is plugged" if space.map_calls else ""
        self.say(f"join     {address} in a container of its own{held}")

    def _plug(self, blocks: int) -> None:
        size = blocks * self.options.block_size
        self.device.resize(size)
        calls = [space.container.calls for space in self.joined]
        self._ask(RequestType.PLUG, blocks)
        for space, before in zip(self.joined, calls, strict=True):
            space.map_calls = space.container.calls.map - before.map
        self._expect_mirrored()
        self.say(f"plug     {format_size(size)}: {blocks} blocks, {self.joined[0].map_calls} MAP_DMA calls")

    def _use(self, space: _Joined, blocks: Sequence[int]) -> None:
        """Let the device write into each block and read the CPU's answer, which it writes into the next one."""
        note = self._fresh()
        self.staging.write(0, note)
        space.engine.fetch(STAGING_IOVA, TRANSFER)
        for block in blocks:
            offset = self._spot(block)
            space.engine.store(REGION_ADDRESS + offset, TRANSFER)
            self._expect(self.memory.read(offset, TRANSFER) == note, f"block {block} has not what the device wrote")
            note = self._fresh()
            self.memory.write(offset, note)
            space.engine.fetch(REGION_ADDRESS + offset, TRANSFER)
            self.verified += 2 * TRANSFER
        space.engine.store(STAGING_IOVA, TRANSFER)
        self._expect(self.staging.read(0, TRANSFER) == note, "the device read something else from its last block")
        self.say(f"use      {space.address} wrote and read back {len(blocks)} blocks by DMA")

    def _unplug(self, blocks: int, *, again: bool = False) -> None:
        calls = [space.container.calls for space in self.joined]
        self._ask(RequestType.UNPLUG, blocks)
        self._expect_mirrored()
        self._expect(self.memory.resident(0, self.memory.size) == 0, "unplugged memory was not given back to the host")
        if again:
            return
        for space, before in zip(self.joined, calls, strict=True):
            space.unmap_calls = space.container.calls.unmap - before.unmap
        self.say(
            f"unplug   {format_size(blocks * self.options.block_size)}: {self.joined[0].unmap_calls} UNMAP_DMA call "
            f"for each of {len(self.joined)} containers, all memory given back"
        )

    def _prove_out_of_reach(self) -> None:
        """Show that a device which still writes to an unplugged block changes nothing."""
        page = self.memory.page_size
        for space in self.joined:
            self.staging.write(0, self._fresh())
            space.engine.fetch(STAGING_IOVA, TRANSFER)
            space.engine.store(REGION_ADDRESS, TRANSFER)
            # Populate first: reading a hole of huge pages would end the process if the host had no page left.
            self.memory.populate(0, page)
            self._expect(self.memory.read(0, TRANSFER) == bytes(TRANSFER), f"{space.address} reached unplugged memory")
            self.memory.discard(0, page)
            self.stopped += 1
        self.say(f"stopped  {self.stopped} DMA writes to unplugged memory by the IOMMU: nothing changed")

    def _plug_again(self, blocks: int) -> int:
        self._ask(RequestType.PLUG, blocks)
        self._expect_mirrored()
        size = self.options.block_size
        zeroed = sum(self.memory.read(block * size, size) == bytes(size) for block in range(blocks))
        self._expect(zeroed == blocks, f"{blocks - zeroed} blocks came back with old content")
        self.say(f"replug   {format_size(blocks * size)}: every block reads as zeros")
        return zeroed

    def _ask(self, kind: RequestType, blocks: int) -> None:
        """Send a guest's request for the first blocks, in wire format. Raises its failure if it is refused."""
        response = Response.parse(self.device.handle(bytes(Request(kind, REGION_ADDRESS, blocks))))
        if response.type is not ResponseType.ACK:
            failure = self.events.failure
            raise failure or Mismatch(f"{kind.name} of {blocks} blocks was answered {response.type.name}")

    def _expect_mirrored(self) -> None:
        """Raises Mismatch unless each container maps just what is plugged."""
        plugged = [(REGION_ADDRESS + run.start, run.size) for run in self._plugged()]
        for space in self.joined:
            held = [(run.iova, run.size) for run in space.container.mappings() if run.memory is self.memory]
            self._expect(held == plugged, f"{space.address} has other mappings than what is plugged")

    def _plugged(self) -> Sequence[Run]:
        return self.device.populated_runs(Run(0, self.options.region_size))

    def _show_map(self) -> None:
        size = self.options.region_size
        runs = [(run.start, run.size) for run in self._plugged()]
        self.say(f"         {bar(runs, size)}  {REGION_ADDRESS:#x} … {REGION_ADDRESS + size:#x}")

    def _spot(self, block: int) -> int:
        """Where to write in block: at its start or its end in turn, so that both ends of mappings are tried."""
        offset = block * self.options.block_size
        return offset if block % 2 == 0 else offset + self.options.block_size - TRANSFER

    def _fresh(self) -> bytes:
        return self.random.randbytes(TRANSFER)

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Mismatch(otherwise)
