"""Types of arguments for argparse."""

from __future__ import annotations

import argparse

from pyvfio.units import parse_size


def count(text: str) -> int:
    """An argparse type: a number of at least one."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of one or more")
    return number


def size(text: str) -> int:
    """The bytes of a size such as "2M" or "1 GiB". Raises argparse.ArgumentTypeError."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
