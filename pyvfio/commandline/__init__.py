"""What commands have in common: programs of subcommands, text and JSON output, shell completion."""

from pyvfio.commandline.output import Output, Style
from pyvfio.commandline.program import Command, Commands, Failure, Program
from pyvfio.commandline.values import count, size

__all__ = [
    "Command",
    "Commands",
    "Failure",
    "Output",
    "Program",
    "Style",
    "count",
    "size",
]
