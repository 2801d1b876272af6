"""QEMU's DMA mapping of virtio-mem, call by call beside ours."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from tests.oracle.comparison import Comparison, Disagreement, answered, asked
from tests.oracle.differences import Difference
from tests.oracle.observation import Line, Observation, integer
from tests.oracle.ours import OurDevice
from tests.oracle.qemu_device import QemuDevice
from tests.oracle.vfio_user import DmaWatcher
from virtiomem.runs import Run, intersect, subtract, union
from virtiomem.trace import DmaLog

Call = list[int | str]
"""As virtiomem.trace prints it: mapper, "map" or "unmap", iova, size, and the errno of a map that was refused."""


class QemuMappers:
    """QEMU's virtio-mem behind as many vfio-user devices as the trace has mappers, each with a container of its own.

    QEMU asks the device that came last first, and ours asks the mapper that came first first. So the devices come in
    reverse here, and a trace means the same to both: Difference.ORDER_OF_LISTENERS.
    """

    def __init__(self, program: Path, init: Line, *, reverse: bool = True) -> None:
        region = Run(integer(init, "addr"), integer(init, "region_size"))
        self.log = DmaLog()
        numbers = range(integer(init, "mappers", 1))
        with ExitStack() as cleanup:
            directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="pyvfio-vfio-user-")))
            self.watchers = [DmaWatcher(directory / str(number), number, region, self.log) for number in numbers]
            for watcher in self.watchers:
                cleanup.callback(watcher.close)
            arguments: list[str] = []
            for watcher in reversed(self.watchers) if reverse else self.watchers:
                path = {"type": "unix", "path": str(watcher.path)}
                arguments += ["-device", json.dumps({"driver": "vfio-user-pci", "socket": path})]
            self.device = QemuDevice(program, init, tuple(arguments), shared=True)
            cleanup.callback(self.device.close)
            self._cleanup = cleanup.pop_all()

    def play(self, line: Line) -> Observation | None:
        """What the device shows; None after refuse_map, which does not reach it."""
        if line["op"] == "refuse_map":
            self.log.refuse_map(integer(line, "mapper"), integer(line, "nth"), integer(line, "errno"))
            return None
        observation = self.device.play(line)
        if line["op"] == "request":
            self.log.forget_refusals()
        return observation

    def take_calls(self) -> list[Call]:
        """What has been mapped and unmapped since they were last taken. QEMU waits for the answer to each call."""
        return [call.as_list() for call in self.log.take()]

    def close(self) -> None:
        self._cleanup.close()


def compare_mappings(lines: Sequence[Line], program: Path) -> Comparison:
    """Play lines on both until what they show, or what they map and unmap, is not the same."""
    init, *rest = lines
    differences: Counter[Difference] = Counter()
    answers: Counter[tuple[str, str]] = Counter()
    calls = 0
    with closing(OurDevice(init)) as ours, closing(QemuMappers(program, init)) as qemu:
        for number, line in enumerate(rest, 1):
            our, their = ours.play(line), qemu.play(line)
            our_calls, their_calls = ours.step["dma"], qemu.take_calls()
            found, expected = explained(their_calls)
            if our != (their or our) or our_calls != expected:
                ends = [{"dma": our_calls, **our.fields}, {"dma": expected, **(their or our).fields}]
                return Comparison(number - 1, answers, calls, differences, disagreement=Disagreement(number, *ends))
            differences.update(found)
            answers[asked(line), answered(our)] += 1
            calls += len(our_calls)
    return Comparison(len(rest), answers, calls, differences, complete=True)


def explained(calls: list[Call]) -> tuple[list[Difference], list[Call]]:
    """What QEMU's calls in one step would be without the differences on purpose, and which of these there were."""
    differences = []
    maps = [call for call in calls if call[1] == "map"]
    unmaps = [call for call in calls if call[1] == "unmap"]
    if calls != [*maps, *unmaps]:
        return [], calls
    if maps and unmaps:
        needed = _of_something(maps, unmaps)
        if needed != unmaps:
            differences.append(Difference.UNMAP_OF_NOTHING)
            unmaps = needed
    refused = [call[0] for call in maps if len(call) > 4]
    others = [call for call in unmaps if call[0] not in refused]
    if len(others) > 1:
        differences.append(Difference.ORDER_OF_UNMAPS)
        unmaps = [call if call[0] in refused else others.pop() for call in unmaps]
    return differences, [*maps, *unmaps]


def _of_something(maps: list[Call], unmaps: list[Call]) -> list[Call]:
    """Of unmaps after a refused map, the parts that were mapped."""
    mapped: dict[int | str, list[Run]] = {}
    for mapper, _, iova, size, *refusal in maps:
        if not refusal:
            mapped[mapper] = union([*mapped.get(mapper, []), Run(int(iova), int(size))])
    needed: list[Call] = []
    for mapper, operation, iova, size in unmaps:
        whole = [Run(int(iova), int(size))]
        for run in intersect(mapped.get(mapper, []), whole):
            needed.append([mapper, operation, run.start, run.size])
        mapped[mapper] = subtract(mapped.get(mapper, []), whole)
    return needed
