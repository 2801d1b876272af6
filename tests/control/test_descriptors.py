"""Descriptors that clients send along: taken by the command that takes them, checked, and else closed."""

from __future__ import annotations

import array
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.virtiomem.servers import Running, descriptors, running

PAYLOAD = dict[str, object]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as running_:
        running_.client.spaces()
        yield running_


def send(peer: socket.socket, line: bytes, fds: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    peer.sendmsg([line], rights if fds else [])


def answered(server: Running, request: PAYLOAD, fds: Sequence[int]) -> PAYLOAD:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(server.path))
        send(peer, json.dumps(request).encode() + b"\n", fds)
        with peer.makefile("rb") as answers:
            answer = json.loads(answers.readline())
    assert isinstance(answer, dict)
    return answer


def settled(condition: Callable[[], bool]) -> bool:
    """Whether condition comes to hold: threads of the server are about to close what they have."""
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return condition()


def files(kind: str, count: int) -> list[int]:
    if kind == "memfd":
        return [os.memfd_create("sent") for _ in range(count)]
    if kind == "socket":
        return [socket.socket(socket.AF_UNIX).detach() for _ in range(count)]
    return [os.open({"null": "/dev/null", "directory": "/"}[kind], os.O_RDONLY) for _ in range(count)]


@pytest.mark.parametrize("name", ["container", "iommufd"])
@pytest.mark.parametrize("kind", ["memfd", "socket", "directory", "null"])
def test_a_descriptor_of_another_kind_is_refused_and_closed(server: Running, name: str, kind: str) -> None:
    fds = files(kind, 1)
    before = descriptors()
    answer = answered(server, {"command": "add-space", "kind": name}, fds)
    assert answer["ok"] is False
    assert ("no device node" in str(answer["error"])) is (kind != "null")
    assert "no VFIO container" in str(answer["error"]) or "as iommufd" in str(answer["error"]) or kind != "null"
    assert settled(lambda: descriptors() <= before)
    assert server.client.spaces() == []
    os.close(fds[0])


@pytest.mark.parametrize(
    ("request_", "count", "says"),
    [
        ({"command": "add-space", "kind": "container"}, 2, "takes 1 descriptors, and 2 came"),
        ({"command": "add-space", "kind": "container"}, 4, "takes 1 descriptors, and 4 came"),
        ({"command": "add-space", "kind": "container"}, 5, "too many descriptors"),
        ({"command": "add-space", "kind": "container"}, 200, "too many descriptors"),
        ({"command": "add-space", "devices": ["0000:00:03.0"]}, 1, "'devices' is none of kind, name, iommu_type"),
        ({"command": "add-space", "kind": "iommufd", "iommu_type": "type1"}, 1, "'iommu_type' is none of"),
        ({"command": "add-space", "kind": "iommufd", "ioas_id": -1}, 1, "the number of an IOAS"),
        ({"command": "add-space", "kind": "iommufd", "ioas_id": "x"}, 1, "whole number"),
        ({"command": "add-space", "kind": "container", "iommu_type": "type2"}, 1, "one of type1, type1v2"),
        ({"command": "spaces"}, 1, "takes no descriptors, and 1 came"),
        ({"command": "show"}, 1, "takes no descriptors, and 1 came"),
        ({"command": "add-device", "socket": "/x"}, 3, "takes no descriptors, and 3 came"),
        ({"command": "nothing"}, 1, "takes no descriptors, and 1 came"),
    ],
)
def test_descriptors_that_do_not_belong_to_a_request_are_closed(
    server: Running, request_: PAYLOAD, count: int, says: str
) -> None:
    fds = files("memfd", count)
    before = descriptors()
    answer = answered(server, request_, fds)
    assert says in str(answer["error"])
    assert settled(lambda: descriptors() <= before)
    assert server.client.spaces() == []
    for fd in fds:
        os.close(fd)


def flood(peer: socket.socket, fd: int) -> None:
    for _ in range(100_000):
        send(peer, b" ", [fd])


def test_a_flood_of_descriptors_costs_nothing(server: Running) -> None:
    """Without the end of a line: the connection ends before more than a few are kept."""
    (fd,) = files("memfd", 1)
    before = descriptors()
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(server.path))
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                flood(peer, fd)
        assert descriptors() <= before + 10
    assert settled(lambda: descriptors() <= before)
    assert server.client.spaces() == []
    os.close(fd)


def test_a_client_that_goes_without_ending_its_line_leaves_nothing(server: Running) -> None:
    (fd,) = files("memfd", 1)
    before = descriptors()
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(server.path))
            send(peer, b'{"command": "add-space"', [fd])
    assert settled(lambda: descriptors() <= before)
    os.close(fd)


def test_a_connection_goes_on_after_what_was_refused(server: Running) -> None:
    (fd,) = files("memfd", 1)
    with socket.socket(socket.AF_UNIX) as peer, peer.makefile("rb") as answers:
        peer.settimeout(20)
        peer.connect(str(server.path))
        for _ in range(10):
            send(peer, b'{"command": "add-space", "kind": "container"}\n', [fd])
            assert json.loads(answers.readline())["ok"] is False
            send(peer, b'{"command": "spaces"}\n', [])
            assert json.loads(answers.readline()) == {"ok": True, "result": {"spaces": []}}
    os.close(fd)
