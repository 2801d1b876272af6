"""Argument types of argparse: what people write on a command line."""

from __future__ import annotations

import argparse

from pyvfio.units import parse_size


def size(text: str) -> int:
    """Bytes, of "2M" or "1 GiB"."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
