"""Mutations of an input, by a seeded generator: the same seed gives the same inputs on every machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

# What is likelier to be misread than anything else.
_WORDS = (
    *(b"", b"\0", b"\n", b" ", b"\t", b"\r", b"-1", b"0", b"1e400", b"9" * 400, b"9" * 5000, b"0x", b"_", b"NaN"),
    *(b"\xff" * 8, b"\x80" + b"\0" * 7, b"\xff\xff\xff\x7f", b"\xc2\xa0", b"\xe2\x80\xa8", b"\xc2\x85", b"\xd9\xa3"),
    *(b"\xc2\xb2", b"\x1b[2J", b"\xed\xb2\x80", b"[", b"]", b"{", b"}", b'"', b"null", b"true", b"[[]]", b"{}", b"5"),
    *(b"[" * 3000, b'{"a":' * 3000, b"\\", b"%", b":", b",", b"="),
)
_LARGEST = 1 << 16


def mutated(random: Random, corpus: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """An input made of one or two of the corpus, by one to four changes."""
    data = bytearray(random.choice(corpus))
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        random.choice(_CHANGES)(random, data, corpus, words)
    return bytes(data[:_LARGEST])


def _place(random: Random, data: bytearray) -> int:
    return random.randrange(len(data) + 1)


def _piece(random: Random, data: Sequence[int]) -> tuple[int, int]:
    first = random.randrange(len(data) + 1)
    return first, min(len(data), first + random.choice((1, 1, 2, 4, 8, 16, 64, len(data))))


def _flip(random: Random, data: bytearray, *_: object) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set(random: Random, data: bytearray, *_: object) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice((0, 1, 0x20, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _remove(random: Random, data: bytearray, *_: object) -> None:
    first, end = _piece(random, data)
    del data[first:end]


def _cut(random: Random, data: bytearray, *_: object) -> None:
    del data[_place(random, data) :]


def _repeat(random: Random, data: bytearray, *_: object) -> None:
    first, end = _piece(random, data)
    place = _place(random, data)
    data[place:place] = data[first:end] * random.choice((1, 1, 2, 8))


def _insert(random: Random, data: bytearray, _: object, words: Sequence[bytes]) -> None:
    place = _place(random, data)
    data[place:place] = random.choice((*words, *_WORDS))


def _replace(random: Random, data: bytearray, _: object, words: Sequence[bytes]) -> None:
    first, end = _piece(random, data)
    data[first:end] = random.choice((*words, *_WORDS))


def _number(random: Random, data: bytearray, *_: object) -> None:
    """Another number in place of the digits at some place."""
    digits = [at for at, byte in enumerate(data) if 0x30 <= byte <= 0x39]
    if digits:
        first = end = random.choice(digits)
        while end < len(data) and 0x30 <= data[end] <= 0x39:
            end += 1
        bits = random.choice((0, 1, 8, 31, 32, 63, 64, 65))
        value = (1 << bits) + random.choice((-1, 0, 1))
        data[first:end] = random.choice((b"%d", b"-%d", b"%d.5", b"0%d")) % value


def _crossed(random: Random, data: bytearray, corpus: Sequence[bytes], _: object) -> None:
    other = random.choice(corpus)
    first, end = _piece(random, other)
    place = _place(random, data)
    data[place:] = other[first:end] + (data[place:] if random.random() < 0.5 else b"")


_CHANGES: tuple[Callable[[Random, bytearray, Sequence[bytes], Sequence[bytes]], None], ...] = (
    *(_flip, _set, _remove, _cut, _repeat, _insert, _insert, _replace, _number, _number, _crossed),
)
