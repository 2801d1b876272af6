"""The parts of the torture, as data."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.campaign import campaign as fuzzed
from tests.fuzz.parsers import PARSERS
from tests.mutants.rules import MUTANTS
from tests.mutants.run import copied
from tests.torture import model, starts, threads
from tests.torture.part import Part


def _model(count: int) -> Iterator[str | None]:
    for found in model.campaign(0, count):
        yield found
        yield from [None] * (model.RUN - 1)


def _fuzz(count: int) -> Iterator[str | None]:
    each = count // len(PARSERS)
    for parser in PARSERS.values():
        yield from (None if finding is None else str(finding) for finding in fuzzed(parser, 0, each))


def _mutants(count: int) -> Iterator[str | None]:
    step = max(len(MUTANTS) // count, 1)
    with copied() as copy:
        for mutant in MUTANTS[::step][:count]:
            yield None if copy.run(mutant).caught else f"survives: {mutant}"


PARTS = (
    Part(
        "model",
        "answers are the specification's, and after each step the kernel has mapped just what is plugged, or somebody "
        "is told, whichever system calls fail or lie",
        "steps",
        20_000,
        1_000_000,
        _model,
    ),
    Part(
        "fuzz", "each parser of outside data returns, or raises its documented error", "inputs", 5_000, 3_000_000, _fuzz
    ),
    Part("threads", "what threads do at once leaves mapped what is plugged", "rounds", 3, 1_000, threads.threads),
    Part(
        "soak", "what comes and goes leaves no descriptor, thread, mapping or pin", "cycles", 100, 20_000, threads.soak
    ),
    Part("starts", "of starts at once one wins, and is reached", "starts", 50, 10_000, starts.two_at_once),
    Part("ends", "SIGTERM from the first instruction on leaves no socket", "ends", 2, 200, starts.ends),
    Part("kills", "after kill -9 at any instant the next command starts", "kills", 2, 200, starts.kills),
    Part("undo", "an undo file is whole whenever its writer is killed", "kills", 10, 1_000, starts.undo_kills),
    Part("mutants", "a fault that is put in is caught by a test that names the rule", "mutants", 2, 10_000, _mutants),
)
