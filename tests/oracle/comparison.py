"""One trace played on both sides, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.oracle.differences import Difference
from tests.oracle.emulator import version
from tests.oracle.observation import Line, Observation, octets
from tests.oracle.ours import OurDevice
from tests.oracle.qemu_device import QemuDevice
from virtiomem import abi
from virtiomem.device import RequestType, Response, ResponseType


@dataclass(frozen=True, slots=True)
class Disagreement:
    """number: of the line, counted from 0 as in the trace; after the last, the final states are meant."""

    number: int
    ours: dict[str, object]
    qemu: dict[str, object]

    def __str__(self) -> str:
        names = [name for name in {**self.ours, **self.qemu} if self.ours.get(name) != self.qemu.get(name)]
        return f"line {self.number + 1}: " + "; ".join(
            f"{name}: ours {self.ours.get(name)}, QEMU {self.qemu.get(name)}" for name in names
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """steps: how many agreed; calls: DMA maps and unmaps in them. answers: by what was asked and the response.

    differences: those on purpose that explain the rest. complete: all was played; a difference that leaves the two in
    different states ends a comparison, as a disagreement does.
    """

    steps: int
    answers: Counter[tuple[str, str]]
    calls: int = 0
    differences: Counter[Difference] = field(default_factory=Counter)
    complete: bool = False
    disagreement: Disagreement | None = None


Compare = Callable[[Sequence[Line]], Comparison]


def compare_requests(lines: Sequence[Line], program: Path) -> Comparison:
    """Play lines on QEMU's virtio-mem and on ours until they differ; then compare the state of every block."""
    init, *rest = lines
    answers: Counter[tuple[str, str]] = Counter()
    migrating = False
    with closing(OurDevice(init)) as ours, closing(QemuDevice(program, init)) as qemu:
        before = Observation(None, False, False, bytes.fromhex(ours.step["config"]))
        if qemu.config != before.config:
            theirs = Observation(None, False, False, qemu.config)
            return Comparison(0, answers, disagreement=Disagreement(0, before.fields, theirs.fields))
        for number, line in enumerate(rest, 1):
            our, their = ours.play(line), qemu.play(line)
            if our != their:
                if migrating and version(program) < (8, 1) and their == _without_unplugging_nothing(line, before, our):
                    return Comparison(number - 1, answers, differences=Counter([Difference.UNPLUG_ALL_OF_NOTHING]))
                return Comparison(number - 1, answers, disagreement=Disagreement(number, our.fields, their.fields))
            answers[asked(line), answered(our)] += 1
            migrating = bool(line["on"]) if line["op"] == "migrating" else migrating
            before = our
        for player in (ours, qemu):
            player.play({"op": "device_reset"})
        our_states, their_states = map(_by_block, (ours.states(), qemu.states()))
        if our_states != their_states:
            return Comparison(len(rest), answers, disagreement=Disagreement(len(lines), our_states, their_states))
    return Comparison(len(rest), answers, complete=True)


def shrunk(lines: Sequence[Line], compare: Compare) -> tuple[Sequence[Line], Disagreement]:
    """As few of the lines as still disagree, and how."""
    disagreement = compare(lines).disagreement
    assert disagreement is not None
    lines = lines[: disagreement.number + 1]
    part = len(lines) // 2
    while part:
        at = 1
        while at < len(lines):
            fewer = [*lines[:at], *lines[at + part :]]
            if found := compare(fewer).disagreement:
                lines, disagreement = fewer, found
            else:
                at += part
        part //= 2
    return lines, disagreement


def asked(line: Line) -> str:
    """An op, or for a request the name of its type."""
    if line["op"] != "request":
        return str(line["op"])
    kind = int.from_bytes(octets(line)[:2], "little")
    return RequestType(kind).name if len(octets(line)) > 1 and kind in list(RequestType) else "malformed"


def answered(observation: Observation) -> str:
    """In a word."""
    if observation.response is not None:
        return ResponseType(observation.response[0]).name
    if observation.broken:
        return "broken"
    return "refused" if observation.refused else "done"


def _without_unplugging_nothing(line: Line, before: Observation, our: Observation) -> Observation | None:
    """What a QEMU shows that does not unplug all while migrating, if nothing is plugged: UNPLUG_ALL_OF_NOTHING."""
    if abi.virtio_mem_config.from_buffer_copy(before.config).plugged_size:
        return None
    if line["op"] == "system_reset":
        return replace(our, config=before.config)
    if asked(line) == RequestType.UNPLUG_ALL.name and our.response == bytes(Response(ResponseType.ACK)):
        return replace(our, response=bytes(Response(ResponseType.BUSY)), config=before.config, content={})
    return None


def _by_block(states: list[bytes | None]) -> dict[str, object]:
    return {f"block {number}": None if state is None else state.hex() for number, state in enumerate(states)}
