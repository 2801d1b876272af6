"""How many clients a control socket has at a time."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack

import pytest

from tests.support.virtiomem.managers import Running


def test_whoever_comes_when_all_are_busy_is_sent_away(manager: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who are answered are not sent away for somebody who comes later."""
    monkeypatch.setattr("virtiomem.control.server._MOST_CLIENTS", 2)
    with ExitStack() as stack:
        peers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        for peer in peers:
            peer.settimeout(10)
        for peer in peers[:2]:
            peer.connect(str(manager.path))
            peer.sendall(json.dumps({"command": "show", "after": 1 << 40, "timeout": 30}).encode() + b"\n")
        deadline = time.monotonic() + 10
        while sum(state.idle_since is None for state in manager.server._clients.values()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        peers[2].connect(str(manager.path))
        assert peers[2].recv(1) == b""
