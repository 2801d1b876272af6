"""Long operations: how far, how fast, how much longer; and the live picture."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from pyvfio.commandline import Output
from tests.support.virtiomem.managers import BLOCK, MIB, Running, status
from virtiomem.cli import main
from virtiomem.cli.progress import Progress

START = replace(status(64 * MIB, BLOCK), plugged_size=0, requested_size=40 * MIB)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("plugged", "seconds", "waiting", "line"),
    [
        (0, 0.0, None, "0 bytes of 40 MiB"),
        (0, 2.0, "migrating", "0 bytes of 40 MiB, waiting: migrating"),
        (10 * MIB, 2.0, None, "10 MiB of 40 MiB, 5 MiB/s, 6 s left"),
        (40 * MIB, 4.0, None, "40 MiB of 40 MiB, 10 MiB/s"),
    ],
)
def test_a_line_of_progress(plugged: int, seconds: float, waiting: str | None, line: str) -> None:
    times = [0.0]
    progress = Progress(Output(io.StringIO()), START, lambda: times[0])
    times[0] = seconds
    assert progress.line(replace(START, plugged_size=plugged, waiting_for=waiting)) == line


@pytest.mark.parametrize(("stream", "drawn"), [(Terminal, True), (io.StringIO, False)])
def test_it_is_drawn_on_terminals_only(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], drawn: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    output = Output(stream())
    Progress(output, START).draw(START)
    assert isinstance(output.stream, io.StringIO)
    assert ("0 bytes of 40 MiB" in output.stream.getvalue()) == drawn


def test_show_watch_draws_every_change_until_interrupted(
    capsys: pytest.CaptureFixture[str], manager: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = []

    def pause(_: float) -> None:
        frames.append(capsys.readouterr().out)
        if len(frames) == 1:
            manager.manager.device.resize(4 * MIB)
        elif "plugged 4 MiB" in frames[-1]:
            raise KeyboardInterrupt

    monkeypatch.setattr("virtiomem.cli.show.time.sleep", pause)
    assert main(["show", "--watch", "--socket", str(manager.path)]) == 130
    assert "plugged 0 bytes" in frames[0]
    assert "██" in frames[-1]
