"""Player: does what the lines of a trace say, to a device and its mappers on the simulated kernel."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Final, Self, TypedDict

from pyvfio import Container, Memory, MemoryKind
from pyvfio.errors import InvalidArgument, VfioError
from virtiomem.device import RESPONSE_SIZE, DeviceBusy, Feature, ProtocolViolation, StateRefused
from virtiomem.mapping import joined
from virtiomem.trace.dma_log import DmaLog, LoggedKernel
from virtiomem.trace.line import Line, TraceError
from virtiomem.trace.recorder import RecordedVirtioMem

_LARGEST_ERRNO: Final = 4095


class Step(TypedDict):
    """What a line of a trace led to, as it is printed.

    response: the answer to a request, in wire format as hexadecimal digits; None without an answer. broken: whether the
    device needs a reset. error: why the line was refused; None if it was not. config: the config space after it, as
    hexadecimal digits. dma: the DMA calls that it led to, in order, each as DmaCall.as_list() gives it.
    """

    response: str | None
    broken: bool
    error: str | None
    config: str
    dma: list[list[int | str]]


MOST_MAPPERS = 64
"""How many address spaces a trace may map into: each makes every step dearer."""
MOST_BLOCKS = 1 << 22
"""How many blocks the region of a trace may have: 8 TiB in blocks of 2 MiB."""


class Player:
    """Plays lines on a device that the first one makes, until close(). The device can be recorded in turn.

    kernel: the simulated one that device and mappers run on. memory: the region's. device: what the lines act on.
    """

    def __init__(self, init: Line) -> None:
        """Make the device that an init line describes. Raises TraceError for other lines, and what VirtioMem raises."""
        if init.op != "init":
            raise init.error('the first line must have "op": "init"')
        self._log = DmaLog()
        self._mappers = init.integer("mappers", 1, largest=MOST_MAPPERS)
        self.kernel = LoggedKernel(self._mappers, self._log)
        with ExitStack() as cleanup:
            size, block_size = init.integer("region_size"), init.integer("block_size")
            if size > MOST_BLOCKS * block_size:
                raise init.error(f"a region of a trace has {MOST_BLOCKS} blocks at most")
            self.memory = cleanup.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, size, kernel=self.kernel))
            self.device = cleanup.enter_context(_device(init, self.memory))
            for number in range(self._mappers):
                container = cleanup.enter_context(Container(kernel=self.kernel))
                container.open_group(number)
                self.kernel.watch(container.fd, number)
                cleanup.enter_context(joined(container, self.device.discards, self.device.section))
            self._cleanup = cleanup.pop_all()

    def close(self) -> None:
        """Close the device, its mappers and its memory. Closing twice is harmless."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def play(self, line: Line) -> Step:
        """Do what line says, and return what it led to. Raises TraceError for a line that no trace may have here."""
        response: bytes | None = None
        failure: VfioError | None = None
        try:
            match line.op:
                case "request":
                    response = self._request(line.octets("hex"), line.integer("response_size", RESPONSE_SIZE))
                case "resize":
                    self.device.resize(line.integer("requested_size"))
                case "system_reset":
                    self.device.system_reset()
                case "device_reset":
                    self.device.device_reset()
                case "migrating":
                    self.device.migrating = line.boolean("on")
                case "load":
                    self.device.load(line.octets("hex"))
                case "refuse_map":
                    self._refuse_map(line)
                case "init":
                    raise line.error("the device has been made by the first line")
                case _:
                    raise line.error(f"op {json.dumps(line.op)} does not exist")
        except TraceError:
            raise
        except (InvalidArgument, ProtocolViolation, DeviceBusy, StateRefused) as error:
            failure = error
        return self.step(response, failure)

    def step(self, response: bytes | None = None, failure: VfioError | None = None) -> Step:
        """The device as it is now, with the DMA calls since the last step.

        response: the answer, if there was one. failure: why the line was refused, if it was.
        """
        return Step(
            response=None if response is None else response.hex(),
            broken=self.device.broken,
            error=None if failure is None else str(failure),
            config=bytes(self.device.config).hex(),
            dma=[call.as_list() for call in self._log.take()],
        )

    def _request(self, request: bytes, response_size: int) -> bytes:
        try:
            return self.device.handle(request, response_size)
        finally:
            self._log.forget_refusals()

    def _refuse_map(self, line: Line) -> None:
        mapper = line.integer("mapper")
        if mapper >= self._mappers:
            raise line.error(f"mapper {mapper} does not exist")
        code = line.integer("errno", largest=_LARGEST_ERRNO)
        if not code:
            raise line.error("errno 0 is no failure")
        self._log.refuse_map(mapper, line.integer("nth"), code)


def _device(init: Line, memory: Memory) -> RecordedVirtioMem:
    negotiated = init.optional_integer("features")
    features = Feature.UNPLUGGED_INACCESSIBLE if negotiated is None else negotiated
    node_id = init.optional_integer("node_id")
    device = RecordedVirtioMem(
        memory,
        address=init.integer("addr"),
        block_size=init.integer("block_size"),
        requested_size=init.integer("requested_size"),
        node_id=0 if node_id is None and features & Feature.ACPI_PXM else node_id,
        unplugged_inaccessible=bool(features & Feature.UNPLUGGED_INACCESSIBLE),
        persistent_suspend=bool(features & Feature.PERSISTENT_SUSPEND),
        prealloc=False,
    )
    try:
        device.negotiate(features)
    except VfioError:
        device.close()
        raise
    return device
