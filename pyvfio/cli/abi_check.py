"""pyvfio abi-check"""

from __future__ import annotations

import argparse

from pyvfio import abi_check
from pyvfio.commandline import Command, Output


def _run(options: argparse.Namespace, _: Output) -> int:
    return abi_check.run(options)


COMMAND = Command(
    "abi-check",
    "compare the mirrored structs with a tree of kernel headers",
    _run,
    abi_check.add_arguments,
    examples=(("pyvfio abi-check --include linux/usr/include", "the headers of another kernel"),),
    json=None,
)
