"""Who may discard memory while who needs it to stay: a balloon, a process that locks its memory, virtio-mem and VFIO.

Run it as it is: the claims alone decide, so no kernel is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from virtiomem import DiscardCoordination, DiscardRefused, DiscardUse


class Balloon:
    """Discards pages the guest offers. It tells nobody, so it gives up where that would do harm."""

    def __init__(self, coordination: DiscardCoordination) -> None:
        self._coordination = coordination
        self.inflated: list[int] = []

    def inflate(self, page: int) -> bool:
        """Whether the page was taken. The guest is told that it was in either case: a balloon is a favour."""
        if self._coordination.disabled:
            return False
        self.inflated.append(page)
        return True


@contextmanager
def all_memory_locked(coordination: DiscardCoordination) -> Iterator[None]:
    """As mlockall() would: nobody may discard anything meanwhile. Raises DiscardRefused if somebody must be able to."""
    with coordination.hold(DiscardUse.DISABLE, "mlock"):
        yield


def main() -> None:
    coordination = DiscardCoordination()
    balloon = Balloon(coordination)
    assert balloon.inflate(1)

    # A DMA mapper pins what is plugged: the balloon must keep its hands off, virtio-mem, which tells it, need not.
    with (
        coordination.hold(DiscardUse.DISABLE_UNCOORDINATED, "DMA mapper"),
        coordination.hold(DiscardUse.REQUIRE_COORDINATED, "virtio-mem"),
    ):
        assert not balloon.inflate(2)
        try:
            with all_memory_locked(coordination):
                raise AssertionError("virtio-mem could no longer unplug")
        except DiscardRefused as refused:
            print(refused)

    with all_memory_locked(coordination):
        assert not balloon.inflate(3)
    assert balloon.inflate(4)
    print(f"the balloon took pages {balloon.inflated}")


if __name__ == "__main__":
    main()
