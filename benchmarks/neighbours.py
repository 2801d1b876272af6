"""What a guest feels while another one of the same server plugs 4 GiB of 4 KiB pages, and who asks, resizes or stops.

STATE of the other guest and `show`, each beside the same with both at rest; then `stop` in the middle of such a plug.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.vhost_user.driver import SplitDriver, ask, started
from tests.support.vhost_user.front_end import (
    BLOCK,
    RAM_SIZE,
    RAM_USER_ADDRESS,
    REGION_ADDRESS,
    REGION_USER_ADDRESS,
    Elsewhere,
    FrontEnd,
    Shared,
    region,
)
from tests.support.vhost_user.process import serving
from virtiomem import RequestType, Response, ResponseType
from virtiomem.control import ControlClient
from virtiomem.vhost_user.abi.vhost_user import VhostUserMemoryRegion

GIBIBYTE = 1 << 30
PLUG, UNPLUG, STATE = RequestType.PLUG, RequestType.UNPLUG, RequestType.STATE


class LargeFrontEnd(FrontEnd):
    """A front end whose region is somewhere else, of another size."""

    address = REGION_ADDRESS

    def regions(self) -> list[VhostUserMemoryRegion]:
        return [region(0, RAM_SIZE, RAM_USER_ADDRESS), region(self.address, self.region.size, REGION_USER_ADDRESS)]


@contextmanager
def guest(path: Path, address: int, size: int) -> Iterator[SplitDriver]:
    front_end = LargeFrontEnd(Elsewhere(str(path)), region=Shared(size))
    front_end.address = address
    try:
        driver = started(front_end, "split")
        assert isinstance(driver, SplitDriver)
        yield driver
    finally:
        front_end.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4, help="GiB that the other one plugs (default: %(default)s)")
    options = parser.parse_args()
    size = options.size * GIBIBYTE
    blocks, behind = size // BLOCK, REGION_ADDRESS + size
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        large, small, control = directory / "large", directory / "small", directory / "control"
        arguments = ["--region", str(size), "--block-size", str(BLOCK), "--requested", str(size)]
        arguments += [word for path in (large, small) for word in ("--vhost-user", str(path))]
        arguments += ["--name", "vm"]
        with (
            serving(directory, *arguments) as process,
            guest(large, REGION_ADDRESS, size) as plugging,
            guest(small, behind, size) as other,
            ControlClient(control) as client,
        ):
            ways: dict[str, Callable[[], object]] = {
                "STATE of the other": lambda: ask(other, STATE, behind, 1),
                "show": client.show,
            }
            assert ask(other, PLUG, behind, 4) == Response(ResponseType.ACK)
            print(f"one guest plugs {options.size} GiB of 4 KiB pages; milliseconds, median and longest")
            print(f"{'':20}{'at rest':>16}{'meanwhile':>16}{'ratio':>8}{'times':>8}")
            for name, way in ways.items():
                rest = [_timed(way) for _ in range(200)]
                seconds, meanwhile = _meanwhile(lambda: ask(plugging, PLUG, REGION_ADDRESS, blocks), way)
                assert ask(plugging, UNPLUG, REGION_ADDRESS, blocks) == Response(ResponseType.ACK)
                ratio = statistics.median(meanwhile) / statistics.median(rest)
                columns = "".join(f"{statistics.median(all_):>8.2f}{max(all_):>8.2f}" for all_ in (rest, meanwhile))
                print(f"{name:20}{columns}{ratio:>8.1f}{len(meanwhile):>8}")
            print(f"the plug: {seconds:.1f} s")
            with ControlClient(control) as stopping:
                thread = threading.Thread(target=ask, args=(plugging, PLUG, REGION_ADDRESS, blocks))
                thread.start()
                time.sleep(seconds / 4)
                start = time.perf_counter()
                stopping.stop()
                process.wait()
                print(f"stop in the middle of a plug: {time.perf_counter() - start:.2f} s")
                thread.join()


def _timed(way: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    way()
    return (time.perf_counter() - start) * 1e3


def _meanwhile(act: Callable[[], object], way: Callable[[], object]) -> tuple[float, list[float]]:
    """How many seconds act takes, and how many milliseconds way does while that goes on, each time."""
    times: list[float] = []
    start = time.perf_counter()
    thread = threading.Thread(target=act)
    thread.start()
    while thread.is_alive():
        times.append(_timed(way))
        time.sleep(0.01)
    thread.join()
    return time.perf_counter() - start, times


if __name__ == "__main__":
    main()
