"""What a real guest asked, replayed: every answer is ACK, and each block is mapped and unmapped as plugged."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtiomem import Response, ResponseType
from virtiomem.trace import replay

TRACES = sorted((Path(__file__).parent.parent / "data").glob("*.jsonl"))
BLOCK = 2 << 20


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_every_request_of_a_real_guest_is_acknowledged(trace: Path) -> None:
    steps = [*replay(trace.read_text().splitlines())]
    answers = {Response.parse(bytes.fromhex(step["response"])).type for step in steps if step["response"]}
    assert answers == {ResponseType.ACK}
    assert not any(step["error"] or step["broken"] for step in steps)
    calls = [call for step in steps for call in step["dma"]]
    assert {call[3] for call in calls if call[1] == "map"} == {BLOCK}
    assert max(len(step["dma"]) for step in steps if step["dma"] and step["dma"][0][1] == "unmap") == 1
