"""Recording what a device is asked; a replay of it gives the same answers."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio.errors import InvalidArgument
from tests.oracle.sequences import RandomTrace
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, FakeMemory
from tests.support.virtiomem.managers import running
from virtiomem import trace
from virtiomem.cli import main
from virtiomem.control import ControlClient
from virtiomem.device import DeviceBusy, Feature, ProtocolViolation, Request, RequestType, ResponseType
from virtiomem.trace import RecordedVirtioMem

PLUG, UNPLUG, _, STATE = RequestType


class _FullDisk(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


class Recording:
    """A device over fakes whose trace is written from the start. answers: to every request."""

    def __init__(self, **options: object) -> None:
        self.memory = FakeMemory(64 * BLOCK)
        self.device = RecordedVirtioMem(
            self.memory,
            address=ADDRESS,
            block_size=BLOCK,
            requested_size=32 * BLOCK,
            **options,  # type: ignore[arg-type]
        )
        self.file = io.StringIO()
        self.device.record(self.file)
        self.answers: list[str | None] = []

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> None:
        self.send(bytes(Request(kind, ADDRESS + block * BLOCK, count)))

    def send(self, request: bytes, response_size: int = 10) -> None:
        try:
            self.answers.append(self.device.handle(request, response_size).hex())
        except ProtocolViolation:
            self.answers.append(None)

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.file.getvalue().splitlines()]

    def replayed(self) -> list[trace.Step]:
        """The steps of requests."""
        steps = zip(self.lines(), trace.replay(self.file.getvalue().splitlines()), strict=True)
        return [step for line, step in steps if line["op"] == "request"]


@pytest.fixture
def recording() -> Iterator[Recording]:
    recording = Recording()
    yield recording
    recording.device.close()


def test_everything_that_is_asked(recording: Recording) -> None:
    device = recording.device
    device.resize(64 * BLOCK)
    device.device_reset()
    device.negotiate(Feature.UNPLUGGED_INACCESSIBLE)
    recording.ask(PLUG, 0, 8)
    device.migrating = True
    recording.ask(UNPLUG, 0, 1)
    with pytest.raises(DeviceBusy):
        device.system_reset()
    device.migrating = False
    recording.send(b"\1\0", 3)
    device.wake_up()
    recording.ask(STATE, 0, 9)
    device.system_reset()
    recording.send(bytes(Request(PLUG, ADDRESS, 1)) + b"surplus", 64)
    assert [line["op"] for line in recording.lines()] == [
        *("init", "resize", "device_reset", "request", "migrating", "request", "system_reset", "migrating"),
        *("request", "device_reset", "request", "system_reset", "request"),
    ]
    assert [step["response"] for step in recording.replayed()] == recording.answers
    assert recording.replayed()[-1]["config"] == bytes(device.config).hex()


def test_what_is_refused_is_no_line(recording: Recording) -> None:
    with pytest.raises(InvalidArgument):
        recording.device.resize(BLOCK + 1)
    recording.ask(STATE, 0, 1)
    assert [line["op"] for line in recording.lines()] == ["init", "request"]


@pytest.mark.parametrize(
    ("options", "negotiated", "line"),
    [
        ({}, None, {"features": 2}),
        ({"unplugged_inaccessible": False}, 0, {"features": 0}),
        ({"node_id": 7}, 3, {"features": 3, "node_id": 7}),
        ({"node_id": 7}, 2, {"features": 2, "node_id": 7}),
        ({"persistent_suspend": True}, 6, {"features": 6}),
    ],
)
def test_features_are_those_of_the_first_request(
    options: dict[str, object], negotiated: int | None, line: dict[str, int]
) -> None:
    recording = Recording(**options)
    if negotiated is not None:
        recording.device.negotiate(negotiated)
    recording.ask(PLUG, 0, 1)
    init = recording.lines()[0]
    assert {key: init.get(key) for key in line} == line
    assert recording.replayed()[0]["config"] == bytes(recording.device.config).hex()
    recording.device.close()


def test_a_plug_that_the_host_refused_is_refused_again(recording: Recording) -> None:
    listener = FakeListener(recording.memory)
    recording.device.discards.register(listener, recording.device.section)
    recording.memory.faults.arm(1)
    recording.ask(PLUG, 0, 4)
    recording.memory.faults.disarm()
    recording.ask(PLUG, 0, 4)
    assert [answer and int(answer[:2], 16) for answer in recording.answers] == [ResponseType.BUSY, ResponseType.ACK]
    assert recording.lines()[1] == {"op": "refuse_map", "mapper": 0, "nth": 0, "errno": errno.ENOMEM}
    assert [step["response"] for step in recording.replayed()] == recording.answers


def test_a_state_that_was_loaded(recording: Recording) -> None:
    recording.ask(PLUG, 3, 2)
    state = recording.device.save()
    other = Recording()
    other.device.load(state)
    other.ask(UNPLUG, 4, 1)
    assert [step["response"] for step in other.replayed()] == other.answers == [bytes(10).hex()]
    other.device.close()


def test_a_trace_begins_with_nothing_plugged(recording: Recording) -> None:
    recording.ask(PLUG, 0, 1)
    with pytest.raises(InvalidArgument, match="nothing plugged"):
        recording.device.record(io.StringIO())


def test_a_device_that_nobody_asked(recording: Recording) -> None:
    assert recording.lines() == []
    recording.device.close()
    assert [line["op"] for line in recording.lines()] == ["init"]


def test_a_device_that_is_not_recorded() -> None:
    memory = FakeMemory(4 * BLOCK)
    with RecordedVirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=BLOCK) as device:
        memory.faults.arm(0)
        assert device.handle(bytes(Request(PLUG, ADDRESS, 1)))[0] == ResponseType.BUSY
        assert not device.migrating


def test_a_full_disk_ends_the_trace_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with RecordedVirtioMem(FakeMemory(4 * BLOCK), address=ADDRESS, block_size=BLOCK, requested_size=BLOCK) as device:
        device.record(_FullDisk())
        assert device.handle(bytes(Request(PLUG, ADDRESS, 1)))[0] == ResponseType.ACK
        assert device.handle(bytes(Request(UNPLUG, ADDRESS, 1)))[0] == ResponseType.ACK
    assert caplog.text.count("the trace ends here") == 1


@pytest.mark.parametrize("seed", range(12))
def test_a_recorded_replay_gives_the_same_answers(seed: int) -> None:
    init, *lines = RandomTrace(seed, persistent_suspend=True, refusals=seed % 2 == 0).lines(80)
    file = io.StringIO()
    with trace.Player(trace.Line(init)) as player:
        player.device.record(file, mappers=1)
        first = [player.play(trace.Line(line)) for line in lines]
    second = list(trace.replay(file.getvalue().splitlines()))
    assert [step["response"] for step in first if step["response"]] == [
        step["response"] for step in second if step["response"]
    ]
    assert first[-1]["config"] == second[-1]["config"]


def test_the_demonstration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    direct, indirect = tmp_path / "direct", tmp_path / "indirect"
    assert main(["demo", "--size", "64M", "--plug", "16M", "--record", str(direct)]) == 0
    assert main(["record", str(indirect), "--", "demo", "--size", "64M", "--plug", "16M"]) == 0
    assert direct.read_text() == indirect.read_text()
    capsys.readouterr()
    assert main(["replay", "--json", str(direct)]) == 0
    steps = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [step["response"] for step in steps if step["response"]] == [bytes(10).hex()] * 4
    assert [len(step["dma"]) for step in steps if step["dma"]] == [16, 2, 16, 2]


def test_a_manager(tmp_path: Path) -> None:
    file = io.StringIO()
    with running(tmp_path / "vm0.sock", record=file) as run, ControlClient(run.path) as client:
        run.reach(client, 16 * BLOCK)
        run.reach(client, 4 * BLOCK)
        config = bytes(run.manager.device.config).hex()
    steps = list(trace.replay(file.getvalue().splitlines()))
    assert {step["response"] for step in steps} == {None, bytes(10).hex()}
    assert steps[-1]["config"] == config
    assert sum(len(step["dma"]) for step in steps) >= 2 * (16 + 1)


def test_nothing_to_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", str(tmp_path / "trace")]) == 1
    assert "nothing to record" in capsys.readouterr().err
