"""Manager: a virtio-mem device with its memory, its address spaces and a stand-in for its guest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TextIO

from pyvfio.dma import AddressSpace
from pyvfio.drivers.edu import Edu
from pyvfio.kernel import Kernel
from pyvfio.memory import Memory, MemoryKind
from pyvfio.resource import Resource
from virtiomem.control import ManagedDevice
from virtiomem.device import Config, Events, Request, RequestRefused
from virtiomem.mapping import joined
from virtiomem.spaces import OpenSpace, SpaceOptions, open_space
from virtiomem.stand_in.exercise import STAGING_IOVA, STAGING_SIZE, Exercise
from virtiomem.stand_in.stand_in import StandInGuest
from virtiomem.trace import RecordedVirtioMem


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """What a Manager manages. Sizes are bytes.

    kernel: the one that memory and devices are of. name: the device's. devices: PCI addresses of devices that are bound
    to VFIO. memory_kind: what backs the region. page_size: of huge pages; None for ordinary ones. region_size,
    block_size, requested_size: as VirtioMem has them. address: where the guest sees the region, guest-physical.
    one_container: whether all devices share one address space; otherwise each has its own. iommufd: whether they are
    opened by their own nodes, in address spaces of an iommufd, instead of containers. exercise: whether the first
    device, an edu, does DMA to plugged blocks all the while. prealloc_threads: as VirtioMem has it. record: where the
    trace of the guest's requests goes; None for no trace.
    """

    kernel: Kernel
    name: str
    devices: Sequence[str]
    memory_kind: MemoryKind
    page_size: int | None
    region_size: int
    block_size: int
    address: int
    requested_size: int = 0
    one_container: bool = False
    iommufd: bool = False
    exercise: bool = False
    prealloc_threads: int = 1
    record: TextIO | None = None


class Manager(Resource):
    """Runs from the beginning until close(). Nothing is plugged, mapped or open then.

    device: the virtio-mem device. managed: the same for a control socket.
    """

    def __init__(self, options: ManagerOptions, changed: Callable[[], object]) -> None:
        """changed: called after every change that a status shows, from any thread.

        Raises what Memory, VirtioMem, open_space() and DmaMapper raise; nothing stays open then.
        """
        with ExitStack() as stack:
            self._build(stack, options, changed)
            super().__init__()
            self._stack = stack.pop_all()

    def _build(self, stack: ExitStack, options: ManagerOptions, changed: Callable[[], object]) -> None:
        kernel = options.kernel
        events = _Events(changed)
        memory = stack.enter_context(
            Memory.allocate(options.memory_kind, options.region_size, page_size=options.page_size, kernel=kernel)
        )
        self.device = stack.enter_context(
            RecordedVirtioMem(
                memory,
                address=options.address,
                block_size=options.block_size,
                requested_size=options.requested_size,
                events=events,
                event_interval=0.0,
                prealloc_threads=options.prealloc_threads,
                name=options.name,
            )
        )
        spaces: list[OpenSpace] = []
        for wanted in SpaceOptions.of_devices(options.devices, one=options.one_container, iommufd=options.iommufd):
            space = stack.enter_context(open_space(wanted, kernel))
            stack.enter_context(joined(space.space, self.device.discards, self.device.section))
            spaces.append(space)
        if options.record is not None:
            self.device.record(options.record, mappers=len(spaces))
        dma_counts = None
        if options.exercise:
            dma_counts = self._exercise(stack, spaces[0], kernel).counts_data
        events.guest = guest = stack.enter_context(StandInGuest(self.device, changed))
        mapped: tuple[AddressSpace, ...] = tuple(space.space for space in spaces)
        self.managed = ManagedDevice(
            self.device,
            guest,
            options.memory_kind.value,
            memory.page_size,
            lambda: mapped,
            dma_counts,
            load=guest.load,
        )

    def _exercise(self, stack: ExitStack, opened: OpenSpace, kernel: Kernel) -> Exercise:
        staging = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, STAGING_SIZE, kernel=kernel))
        staging.populate(0, STAGING_SIZE)
        opened.space.map_dma(STAGING_IOVA, staging, 0, STAGING_SIZE)
        stack.callback(opened.space.unmap_dma, STAGING_IOVA, STAGING_SIZE)
        engine = stack.enter_context(Edu(opened.devices[0]))
        return stack.enter_context(Exercise(engine, staging, self.device))

    def _release(self) -> None:
        self._stack.close()

    def __repr__(self) -> str:
        return f"<Manager of {self.device.name}>"


class _Events(Events):
    """Hands the events of a device to its guest, and calls changed() for each."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self.guest: StandInGuest | None = None
        self._changed = changed

    def config_changed(self, config: Config) -> None:  # noqa: ARG002 (the event's signature)
        if self.guest is not None:
            self.guest.config_changed()
        self._changed()

    def size_changed(self, plugged_size: int) -> None:  # noqa: ARG002
        self._changed()

    def request_refused(self, request: Request, error: RequestRefused) -> None:  # noqa: ARG002
        if self.guest is not None:
            self.guest.request_refused(str(error.__cause__ or error))
        self._changed()
