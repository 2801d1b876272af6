"""Replay of what a guest asked: JSON Lines in, what the device answered and mapped out."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypedDict

from pyvfio.address_space import Access, AddressSpace, IovaRange, MappedRun
from pyvfio.errors import AlreadyMapped, InvalidArgument, NotMapped, VfioError
from pyvfio.kernel import LinuxKernel
from pyvfio.map_errors import check_map_arguments, map_failure
from pyvfio.mappings import MappingTable
from pyvfio.memory import Memory, MemoryKind
from pyvfio.units import format_size
from virtiomem import abi
from virtiomem.config import Feature
from virtiomem.device import VirtioMem
from virtiomem.dma import DmaMapper
from virtiomem.errors import DeviceBusy, ProtocolViolation
from virtiomem.requests import RESPONSE_SIZE, Response


@dataclass(frozen=True, slots=True)
class DmaCall:
    """One mapping made or asked for, or one range unmapped. errno: of a map that was refused."""

    mapper: int
    operation: str
    iova: int
    size: int
    errno: int | None = None

    def as_list(self) -> list[int | str]:
        call: list[int | str] = [self.mapper, self.operation, self.iova, self.size]
        return call if self.errno is None else [*call, self.errno]


class Step(TypedDict):
    """What one line of a trace led to, as printed. response, config: hexadecimal, in wire format.

    response: None without an answer. broken: the device needs a reset. error: why the line was refused. dma: the calls
    in the order they were made: mapper, "map" or "unmap", iova, size, and the errno of a map that was refused.
    """

    response: str | None
    broken: bool
    error: str | None
    config: str
    dma: list[list[int | str]]


class TraceError(InvalidArgument):
    """A line is not what a trace may hold; the message has its number."""


class DmaLog:
    """Every DMA call of all address spaces, in the order they are made, and those that are to be refused."""

    def __init__(self) -> None:
        self._calls: list[DmaCall] = []
        self._refused: dict[tuple[int, int], int] = {}
        self._maps: dict[int, int] = {}

    def refuse_map(self, mapper: int, nth: int, errno: int) -> None:
        """The nth map of mapper from now on, counted from 0, is to fail; until take()."""
        self._refused[mapper, self._maps.get(mapper, 0) + nth] = errno

    def map(self, mapper: int, iova: int, size: int) -> None:
        """mapper is about to make one mapping. Raises OSError if it must fail."""
        count = self._maps.get(mapper, 0)
        self._maps[mapper] = count + 1
        refusal = self._refused.get((mapper, count))
        self._calls.append(DmaCall(mapper, "map", iova, size, refusal))
        if refusal is not None:
            raise OSError(refusal, os.strerror(refusal))

    def unmap(self, mapper: int, iova: int, size: int) -> None:
        """mapper is about to unmap a range with one call."""
        self._calls.append(DmaCall(mapper, "unmap", iova, size))

    def take(self) -> tuple[DmaCall, ...]:
        """The calls since the last take()."""
        calls, self._calls = tuple(self._calls), []
        return calls

    def forget_refusals(self) -> None:
        self._refused.clear()
        self._maps.clear()


class TraceHost(Protocol):
    """Where a trace is replayed. The replay closes what it is given, if it can be closed."""

    def memory(self, size: int) -> Memory:
        """Room for size bytes; pages are never populated by the replay."""

    def address_space(self, mapper: int, log: DmaLog) -> AddressSpace:
        """The address space of that number, which tells log of each map and unmap before it makes it."""


class RecordingHost:
    """Address spaces that map nothing and keep books, so a region may have any size."""

    def memory(self, size: int) -> Memory:
        return Memory.allocate(MemoryKind.ANONYMOUS, size)

    def address_space(self, mapper: int, log: DmaLog) -> AddressSpace:
        return RecordingAddressSpace(mapper, log)


class RecordingAddressSpace:
    """An AddressSpace of type1v2's rules without a device: it tells its log what it would ask of a kernel."""

    page_sizes = (4096,)
    iova_ranges = (IovaRange(0, (1 << 64) - 1),)

    def __init__(self, mapper: int, log: DmaLog, mapping_limit: int | None = None) -> None:
        self.name = f"address space {mapper}"
        self._mapper = mapper
        self._log = log
        self._limit = mapping_limit
        self._table = MappingTable()
        self._kernel = LinuxKernel()

    def map_dma(
        self,
        iova: int,
        memory: Memory,
        offset: int,
        size: int,
        access: Access = Access.READ_WRITE,
        *,
        granularity: int | None = None,
    ) -> None:
        run = MappedRun(iova, size, memory, offset, access, granularity)
        check_map_arguments(run, self.page_sizes[0], self.iova_ranges)
        if self._table.overlapping(iova, size):
            raise AlreadyMapped(errno.EEXIST, "map_dma", {"iova": iova, "size": size})
        count = self._table.count
        for part in run.parts():
            for start in part:
                try:
                    if count == self._limit:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    self._log.map(self._mapper, start, part.step)
                except OSError as error:
                    if start > iova:
                        self._log.unmap(self._mapper, iova, start - iova)
                    raise map_failure(error, run, start, part.step, count, self._kernel) from error
                count += 1
        self._table.add(run)

    def unmap_dma(self, iova: int, size: int) -> int:
        covered = self._table.covered(iova, size)
        if not covered or self._table.bisected(iova, size):
            raise NotMapped(errno.ENOENT, "unmap_dma", {"iova": iova, "size": size})
        self._log.unmap(self._mapper, iova, size)
        self._table.remove(iova, size)
        return covered

    def unmap_all(self) -> int:
        runs = self._table.runs()
        return self.unmap_dma(runs[0].iova, runs[-1].end - runs[0].iova) if runs else 0

    def mappings(self) -> tuple[MappedRun, ...]:
        return self._table.runs()

    @property
    def mapping_count(self) -> int:
        return self._table.count

    @property
    def mappings_left(self) -> int | None:
        return None if self._limit is None else self._limit - self._table.count


def replay(lines: Iterable[str], host: TraceHost | None = None) -> Generator[Step, None, None]:
    """Play a trace on a new device; one Step for each line, as soon as it is played. The device ends with the replay.

    The first line makes the device: {"op": "init", "block_size", "addr", "region_size", "requested_size"}, optional
    "node_id", "features" (as negotiated) and "mappers" (default 1). Then {"op": "request", "hex"}, optional
    "response_size"; {"op": "resize", "requested_size"}; {"op": "system_reset"}; {"op": "device_reset"};
    {"op": "migrating", "on"}; {"op": "refuse_map", "mapper", "nth", "errno"}: in the next request that map fails.

    Raises TraceError for a line that is none of these, and what VirtioMem raises for an init it refuses.
    """
    host = host or RecordingHost()
    with ExitStack() as cleanup:
        player: _Player | None = None
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            line = _Line(number, text)
            if player is None:
                player = _Player(line, host, cleanup)
                yield player.step()
            else:
                yield player.play(line)


def describe(step: Step) -> str:
    """The step in a line for people."""
    words = [step["error"] or "done"]
    if step["response"] is not None:
        words = [Response.parse(bytes.fromhex(step["response"])).type.name]
    elif step["broken"]:
        words = [f"no answer: {step['error']}"]
    plugged = abi.virtio_mem_config.from_buffer_copy(bytes.fromhex(step["config"])).plugged_size
    words.append(f"plugged {format_size(plugged)}")
    for operation in ("map", "unmap"):
        if count := sum(call[1] == operation for call in step["dma"]):
            words.append(f"{count} {operation}{'s' if count > 1 else ''}")
    return ", ".join(words)


class _Line:
    """One line, whose fields are checked when they are asked for."""

    def __init__(self, number: int, text: str) -> None:
        self._number = number
        try:
            fields: object = json.loads(text)
        except json.JSONDecodeError as error:
            raise self.error(f"not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise self.error("not a JSON object")
        self._fields: dict[str, object] = fields
        self.op = self._fields.get("op")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._fields.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(f"{key} must be a number, not {json.dumps(value)}")
        return value

    def optional_integer(self, key: str) -> int | None:
        return self.integer(key) if self._fields.get(key) is not None else None

    def boolean(self, key: str) -> bool:
        value = self._fields.get(key)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, not {json.dumps(value)}")
        return value

    def octets(self, key: str) -> bytes:
        value = self._fields.get(key)
        try:
            return bytes.fromhex(value if isinstance(value, str) else "?")
        except ValueError:
            raise self.error(f"{key} must be hexadecimal digits, not {json.dumps(value)}") from None

    def error(self, meaning: str) -> TraceError:
        return TraceError(errno.EINVAL, f"replay line {self._number}", meaning=meaning)


class _Player:
    """A device with its mappers, made by an init line."""

    def __init__(self, line: _Line, host: TraceHost, cleanup: ExitStack) -> None:
        if line.op != "init":
            raise line.error('the first line must have "op": "init"')
        self._log = DmaLog()
        offered = line.optional_integer("features")
        features = Feature.UNPLUGGED_INACCESSIBLE if offered is None else offered
        memory = cleanup.enter_context(host.memory(line.integer("region_size")))
        self._device = cleanup.enter_context(
            VirtioMem(
                memory,
                address=line.integer("addr"),
                block_size=line.integer("block_size"),
                requested_size=line.integer("requested_size"),
                node_id=line.integer("node_id", 0) if features & Feature.ACPI_PXM else line.optional_integer("node_id"),
                unplugged_inaccessible=bool(features & Feature.UNPLUGGED_INACCESSIBLE),
                persistent_suspend=bool(features & Feature.PERSISTENT_SUSPEND),
                prealloc=False,
            )
        )
        self._device.negotiate(features)
        self._mappers = line.integer("mappers", 1)
        for number in range(self._mappers):
            mapper = cleanup.enter_context(DmaMapper(host.address_space(number, self._log)))
            self._device.discards.register(mapper, self._device.section)
            cleanup.callback(self._device.discards.unregister, mapper)

    def play(self, line: _Line) -> Step:
        response: bytes | None = None
        failure: VfioError | None = None
        try:
            match line.op:
                case "request":
                    response = self._request(line.octets("hex"), line.integer("response_size", RESPONSE_SIZE))
                case "resize":
                    self._device.resize(line.integer("requested_size"))
                case "system_reset":
                    self._device.system_reset()
                case "device_reset":
                    self._device.device_reset()
                case "migrating":
                    self._device.migrating = line.boolean("on")
                case "refuse_map":
                    self._refuse_map(line)
                case _:
                    raise line.error(f"op {json.dumps(line.op)} does not exist")
        except TraceError:
            raise
        except (InvalidArgument, ProtocolViolation, DeviceBusy) as error:
            failure = error
        return self.step(response, failure)

    def step(self, response: bytes | None = None, failure: VfioError | None = None) -> Step:
        return Step(
            response=None if response is None else response.hex(),
            broken=self._device.broken,
            error=None if failure is None else str(failure),
            config=bytes(self._device.config).hex(),
            dma=[call.as_list() for call in self._log.take()],
        )

    def _request(self, request: bytes, response_size: int) -> bytes:
        try:
            return self._device.handle(request, response_size)
        finally:
            self._log.forget_refusals()

    def _refuse_map(self, line: _Line) -> None:
        mapper = line.integer("mapper")
        if mapper >= self._mappers:
            raise line.error(f"mapper {mapper} does not exist")
        self._log.refuse_map(mapper, line.integer("nth"), line.integer("errno"))
