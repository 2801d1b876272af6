"""A session that the next server cannot go on with: the front end is cut off, and nothing of it stays kept."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvfio.kernel import LinuxKernel
from tests.support.vhost_user.driver import ANSWER, DRIVERS, REQUEST, WRITE, Buffer, ask, started
from tests.support.vhost_user.front_end import (
    BLOCK,
    QUEUE_SIZE,
    REGION_ADDRESS,
    REGION_SIZE,
    Elsewhere,
    FrontEnd,
    mem_reg,
    u64,
)
from virtiomem import RequestType, Response, ResponseType
from virtiomem.device import REQUEST_SIZE, RESPONSE_SIZE
from virtiomem.discard import DiscardCoordination
from virtiomem.persistence import DescriptorStore, NotifySocket, ServiceManager, SlotFile
from virtiomem.vhost_user import ServedRegion, ServedRegionOptions
from virtiomem.vhost_user.messages import FrontEndRequest


class Place:
    """Servers that follow one another, whose descriptors a thread keeps."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.state = directory / "vm0.state"
        self.path = str(directory / "mem")
        self.notify = NotifySocket(directory)
        self._ending = threading.Event()
        self._taking = threading.Thread(target=self._take)
        self._taking.start()

    def _take(self) -> None:
        while not self._ending.wait(0.002):
            self.notify.take(os.getpid())

    @property
    def kinds(self) -> set[str]:
        """What is kept, when all that was told by now is done."""
        ServiceManager(str(self.notify.path)).wait()
        return {name.partition(".")[0] for name, _ in self.notify.stored}

    @contextmanager
    def server(self, lost: str = "") -> Iterator[ServedRegion]:
        """The next one, which leaves all to the one after it. lost: the kind of what was not kept for it."""
        left = [(name, os.dup(fd)) for name, fd in self.notify.stored if name.partition(".")[0] != lost]
        options = ServedRegionOptions(
            self.path, "vm0", REGION_ADDRESS, REGION_SIZE, BLOCK, REGION_SIZE, state=self.state
        )
        with DescriptorStore(ServiceManager(str(self.notify.path)), left) as store:
            served = ServedRegion(
                options,
                [],
                kernel=LinuxKernel(),
                coordination=DiscardCoordination(),
                changed=list,
                say=lambda _: None,
                store=store,
            )
            store.drop_unused()
            try:
                yield served
            finally:
                served.pause()
                served.hand_over()

    def close(self) -> None:
        self._ending.set()
        self._taking.join()
        self.notify.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


@pytest.mark.parametrize("lost", ["connection", "channel", "taken", "memory", "kick", "call", "error"])
def test_a_front_end_of_which_something_was_not_kept_is_cut_off(place: Place, lost: str) -> None:
    with place.server():
        front_end = FrontEnd(Elsewhere(place.path))
        front_end.socket.settimeout(10)
        started(front_end, "split")
        front_end.number(FrontEndRequest.GET_FEATURES)
    assert lost in place.kinds
    with place.server(lost) as server:
        assert not server.connected
        assert place.kinds <= {"listener", "region", lost}
        if lost != "connection":
            assert front_end.gone()
    front_end.close()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("regions", "none"),
        ("regions", [{"size": 1}]),
        ("status", "x"),
        ("features", []),
        ("ring", None),
        ("handled", 7),
        ("taken", "no such name"),
    ],
)
def test_a_record_that_is_damaged_costs_a_front_end_its_session(place: Place, key: str, value: object) -> None:
    with place.server():
        front_end = FrontEnd(Elsewhere(place.path))
        front_end.socket.settimeout(10)
        started(front_end, "split")
        front_end.number(FrontEndRequest.GET_FEATURES)
    with SlotFile(place.state) as file:
        assert file.content is not None
        record = json.loads(file.content)
        record["session"][key] = value
        file.write(json.dumps(record).encode())
    with place.server() as server:
        assert not server.connected
        assert front_end.gone()
        following = FrontEnd(Elsewhere(place.path))
        following.connect()
        following.close()
    front_end.close()


def test_the_same_message_again_is_another_one(place: Place) -> None:
    """What was handled last stays recorded after it was taken, and says of which one that is true."""
    calls = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    with place.server():
        front_end = FrontEnd(Elsewhere(place.path))
        driver = started(front_end, "split")
        assert front_end.acknowledged(FrontEndRequest.SET_VRING_CALL, u64(0), [calls[0]])
    with place.server():
        assert front_end.acknowledged(FrontEndRequest.SET_VRING_CALL, u64(0), [calls[1]])
        before, front_end.call = front_end.call, calls[1]
        assert ask(driver, RequestType.PLUG, REGION_ADDRESS, 1) == Response(ResponseType.ACK)
    front_end.close()
    for fd in (before, calls[0]):
        os.close(fd)


@pytest.mark.parametrize("kind", DRIVERS)
def test_memory_that_comes_to_a_ring_that_runs_does_not_lose_its_place(
    place: Place, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.server():
        front_end = FrontEnd(Elsewhere(place.path))
        ram, region = front_end.regions()
        monkeypatch.setattr(front_end, "share", lambda: FrontEnd.share(front_end, ram, fds=[front_end.ram.fd]))
        driver = started(front_end, kind)
        for _ in range(3):
            assert ask(driver, RequestType.PLUG, REGION_ADDRESS, 1) == Response(ResponseType.BUSY)
        assert front_end.acknowledged(FrontEndRequest.ADD_MEM_REG, mem_reg(region), [front_end.region.fd])
    with place.server() as server:
        assert server.connected
        os.eventfd_read(front_end.call)
        assert ask(driver, RequestType.PLUG, REGION_ADDRESS, 1) == Response(ResponseType.ACK)
    front_end.close()


@pytest.mark.parametrize("kind", DRIVERS)
def test_a_chain_that_fills_the_ring_may_have_the_next_one_in_its_place(place: Place, kind: str) -> None:
    parts = [Buffer(REQUEST + 4 * part, 4) for part in range(REQUEST_SIZE // 4)]
    answer = [Buffer(ANSWER + 5 * part, 5, WRITE) for part in range(RESPONSE_SIZE // 5)]
    assert len(parts + answer) == QUEUE_SIZE
    with place.server():
        driver = started(front_end := FrontEnd(Elsewhere(place.path)), kind)
        assert ask(driver, RequestType.PLUG, REGION_ADDRESS, 1, parts + answer) == Response(ResponseType.ACK)
        # The driver has not kicked yet.
        driver.offer(parts + answer)
    with place.server():
        os.eventfd_write(front_end.kick, 1)
        deadline = time.monotonic() + 3
        while driver.used() is None:
            assert time.monotonic() < deadline
        assert Response.parse(front_end.ram.bytes[ANSWER : ANSWER + RESPONSE_SIZE]) == Response(ResponseType.ERROR)
    front_end.close()
