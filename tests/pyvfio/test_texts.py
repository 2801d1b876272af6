"""What the kernel and peers write is taken apart at their own separators, and printed without an effect."""

from __future__ import annotations

import pytest

from pyvfio import VfioError
from pyvfio.texts import lines_of, number_of, printable, shortened, words_of

# What Python's own splitlines() and split() take for separators beside newline, blank and tab.
OTHERS = "\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2028\u2029\u202f\u205f\u3000"


@pytest.mark.parametrize(
    ("text", "lines"), [("", []), ("\n", [""]), ("a", ["a"]), ("a\n", ["a"]), ("a\n\nb\n", ["a", "", "b"])]
)
def test_newlines_end_or_separate_lines(text: str, lines: list[str]) -> None:
    assert lines_of(text) == lines


@pytest.mark.parametrize("char", OTHERS)
def test_nothing_else_ends_a_line_or_a_word(char: str) -> None:
    assert lines_of(f"a{char}b\nc") == [f"a{char}b", "c"]
    assert words_of(f" a{char}b\t c ") == [f"a{char}b", "c"]


@pytest.mark.parametrize(
    ("text", "base", "number"),
    [
        ("0", 10, 0),
        ("-1", 10, -1),
        ("0x8086", 16, 0x8086),
        ("FFff", 16, 0xFFFF),
        ("", 10, None),
        ("", 16, None),
        ("0x", 16, None),
        (" 1", 10, None),
        ("1_0", 10, None),
        ("+1", 10, None),
        ("²", 10, None),
        ("٣", 10, None),
        ("-1", 16, None),
        ("1" * 5000, 10, None),
    ],
)
def test_a_number_is_digits(text: str, base: int, number: int | None) -> None:
    assert number_of(text, base) == number


@pytest.mark.parametrize("char", ["\x1b", "\n", "\r", "\x07", "\x9b", "\u2028", "\u202e", "\udc80", "\U000e0001"])
def test_what_is_printed_has_no_effect(char: str) -> None:
    assert printable(f"a{char}b").isprintable()
    assert printable("Grüße, 世界 …") == "Grüße, 世界 …"
    assert shortened(char * 100).isprintable()
    assert len(shortened(char * 100)) == 65


def test_a_message_is_one_line_whatever_names_are_in_it() -> None:
    error = VfioError(5, "open \x1b[2J", {"file": "a\nb"}, "\u2028 says no", "End \x07")
    assert str(error) == r"open \x1b[2J file a\nb: \u2028 says no. End \x07 [EIO]"
