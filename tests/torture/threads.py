"""Threads that ask, plug, join and leave at once, with a switch interval of ten microseconds."""

from __future__ import annotations

import faulthandler
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from pyvfio import VfioError
from tests.torture.model import ADDRESS, BLOCK, BLOCKS, World
from virtiomem.device import Request, RequestType
from virtiomem.runs import Run

_PATIENCE = 120
"""Seconds for a round, after which the process ends with what each thread does."""


def threads(count: int) -> Iterator[str | None]:
    """Whatever threads do at once, mapped is plugged in the end, and no answer contradicts itself."""
    for number in range(count):
        with _fast_switches():
            faulthandler.dump_traceback_later(_PATIENCE, exit=True)
            try:
                yield _round(number)
            finally:
                faulthandler.cancel_dump_traceback_later()


@contextmanager
def _fast_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _round(number: int) -> str | None:
    world = World()
    found: list[str] = []
    over = threading.Event()

    def doing(name: str, work: Callable[[random.Random], None], times: int | None) -> threading.Thread:
        chance = random.Random(f"{number} {name}")

        def run() -> None:
            done = 0
            try:
                while not over.is_set() and (times is None or done < times):
                    work(chance)
                    done += 1
            except Exception as error:
                found.append(f"{name}: {type(error).__name__}: {error}")

        return threading.Thread(target=run, name=name)

    def request(chance: random.Random) -> None:
        kind = chance.choice((RequestType.PLUG, RequestType.PLUG, RequestType.UNPLUG))
        block = chance.randrange(BLOCKS)
        world.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, chance.randint(1, 3))))

    def joins(chance: random.Random) -> None:
        mapper = world.mappers[chance.randrange(2)]
        with suppress(VfioError):
            world.device.discards.register(mapper, world.device.section)
        with suppress(VfioError):
            world.device.discards.unregister(mapper)

    def looks(_: random.Random) -> None:
        runs = world.device.plugged_runs
        if any(left.end >= right.start for left, right in pairwise(runs)):
            raise AssertionError(f"runs that are none: {runs}")
        for space in world.spaces:
            if space.mapping_count > BLOCKS or sum(run.size for run in space.mappings()) > BLOCKS * BLOCK:
                raise AssertionError("more is mapped than there is")
        world.device.discards.populated_runs(Run(0, BLOCKS * BLOCK))

    def resizes(chance: random.Random) -> None:
        world.device.resize(chance.randint(BLOCKS // 2, BLOCKS) * BLOCK)

    working = [doing(f"guest {each}", request, 60) for each in range(2)] + [doing("joins", joins, 30)]
    beside = [doing("looks", looks, None), doing("resizes", resizes, None)]
    for thread in (*working, *beside):
        thread.start()
    for thread in working:
        thread.join()
    over.set()
    for thread in beside:
        thread.join()
    world.reference.plugged = world.plugged
    try:
        world.check()
        world.close()
    except Exception as error:
        found.append(f"in the end: {type(error).__name__}: {error}")
    return "; ".join(found) or None


def soak(count: int) -> Iterator[str | None]:
    """Devices and address spaces that come and go leave neither descriptors nor threads."""
    before = _held()
    for number in range(count):
        world = World()
        for mapper in world.mappers:
            world.device.discards.register(mapper, world.device.section)
            world.joined.add(world.mappers.index(mapper))
        world.device.handle(bytes(Request(RequestType.PLUG, ADDRESS, BLOCKS)))
        world.reference.plugged = set(range(BLOCKS))
        try:
            world.check()
            world.close()
        except AssertionError as error:
            yield str(error)
            continue
        now = _held()
        yield f"{now} descriptors and threads, and {before} before" if number and now != before else None


def _held() -> tuple[int, int]:
    return len([*Path("/proc/self/fd").iterdir()]), threading.active_count()
