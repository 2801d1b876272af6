"""Each parser of outside data returns, or raises what its docstring says: the short form of `python -m tests.fuzz`."""

from __future__ import annotations

import pytest

from tests.fuzz.campaign import campaign, tried
from tests.fuzz.parser import CORPORA, Parser
from tests.fuzz.parsers import PARSERS

COUNT = 200
"""Mutated inputs for each parser: with all corpora less than ten seconds."""

NAMES = sorted(PARSERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_parser_returns_or_raises_its_own_error(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(100)
    assert [str(finding) for finding in campaign(PARSERS[name], seed=0, count=COUNT) if finding] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_corpus_has_an_input_that_is_taken(name: str) -> None:
    """Otherwise mutations of it would not get past the first check."""
    parser = PARSERS[name]
    taking = Parser(name, parser.run)
    assert any(tried(taking, data) is None for data in parser.corpus)


def test_every_corpus_is_of_a_parser() -> None:
    assert sorted(path.name for path in CORPORA.iterdir()) == NAMES


def leaves_another_error(data: bytes) -> None:
    raise IndexError(data[:1])


def says_too_much(data: bytes) -> None:
    raise ValueError(data.decode() * 10_000)


def moves_the_cursor(data: bytes) -> None:
    raise OSError(data.decode() + "\x1b[2J")


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (leaves_another_error, "IndexError in "),
        (says_too_much, "its message has "),
        (moves_the_cursor, "cannot be printed"),
    ],
)
def test_a_fault_is_found(run: object, what: str) -> None:
    finding = tried(Parser("x", run, (ValueError, OSError)), b"input")  # type: ignore[arg-type]
    assert finding is not None
    assert what in finding.what
    assert "input" in str(finding)


def test_a_parser_that_does_not_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.campaign.PATIENCE", 0.01)

    def endless(_: bytes) -> None:
        while True:
            pass

    finding = tried(Parser("x", endless), b"")
    assert finding is not None
    assert "TookTooLongError" in finding.what


def test_a_seed_gives_the_same_inputs_again() -> None:
    seen: list[list[bytes]] = [[], []]
    for inputs in seen:
        parser = Parser("size", inputs.append)
        assert list(campaign(parser, seed=3, count=50)) == [None] * (50 + len(parser.corpus))
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 40
