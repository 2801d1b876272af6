"""Types of arguments for argparse."""

from __future__ import annotations

import argparse

from pyvfio.units import parse_size


def size(text: str) -> int:
    """The bytes of a size such as "2M" or "1 GiB". Raises argparse.ArgumentTypeError."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
