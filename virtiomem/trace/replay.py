"""replay(): what a device answers to a trace, and maps for it, line by line."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import ExitStack

from pyvfio.units import format_size
from virtiomem import abi
from virtiomem.device import Response
from virtiomem.trace.line import Line
from virtiomem.trace.player import Player, Step


def replay(lines: Iterable[str]) -> Generator[Step, None, None]:
    """Play a trace on a new device, and yield one Step for each line as soon as it is played. Blank lines are skipped.

    A request or a resize that is refused does not end the replay. The device is closed at the end of it. Raises
    TraceError for a line that no trace may hold, and what VirtioMem raises for an init line.
    """
    with ExitStack() as cleanup:
        player: Player | None = None
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            line = Line.parse(text, number)
            if player is None:
                player = cleanup.enter_context(Player(line))
                yield player.step()
            else:
                yield player.play(line)


def describe(step: Step) -> str:
    """step as a line for people."""
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
