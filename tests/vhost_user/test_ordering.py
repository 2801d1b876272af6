"""Where a ring's accesses must not change places there is a barrier between them, whichever processor runs this."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support.vhost_user.driver import ask, started
from tests.support.vhost_user.front_end import EVENT_IDX, REGION_ADDRESS, FrontEnd
from virtiomem import RequestType, Response, ResponseType
from virtiomem.vhost_user import packed_queue, split_queue
from virtiomem.vhost_user.window import GuestWindow


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The accesses to the ring that were made, in their order, and the barriers among them."""
    made: list[str] = []
    names = ("load", "store", "read", "write")
    originals = {name: getattr(GuestWindow, name) for name in names}

    def recorded(name: str):  # type: ignore[no-untyped-def]
        def access(window: GuestWindow, *arguments: int) -> object:
            made.append(name)
            return originals[name](window, *arguments)

        return access

    for name in names:
        monkeypatch.setattr(GuestWindow, name, recorded(name))
    for module in (split_queue, packed_queue):
        monkeypatch.setattr(module, "memory_barrier", lambda: made.append("barrier"))
    return made


@pytest.mark.parametrize(
    ("kind", "features", "expected"),
    [
        # The index; what it tells of; the answer, the element, their index, which is part of a packed ring's
        # element; whether the driver wants a call; and again: the index, a kick wanted, the index.
        ("split", 0, "load | load read read read write write | store | load load load"),
        ("split", EVENT_IDX, "load | load read read read write write | store | load load store | load"),
        ("packed", 0, "load | read read read write | store | load load store | load"),
        ("packed", EVENT_IDX, "load | read read read write | store | load load store | store | load"),
    ],
)
def test_what_must_not_change_places_has_a_barrier_between(
    front_end: FrontEnd, made: list[str], kind: str, features: int, expected: str
) -> None:
    driver = started(front_end, kind, features)
    assert ask(driver, RequestType.PLUG, REGION_ADDRESS, 1) == Response(ResponseType.ACK)
    made.clear()
    assert ask(driver, RequestType.UNPLUG, REGION_ADDRESS, 1) == Response(ResponseType.ACK)
    assert " ".join(made).replace("barrier", "|") == expected
    assert ("barrier", "barrier") not in pairwise(made)
