"""virtiomem spaces"""

from __future__ import annotations

import argparse

from pyvfio.commandline import Command, Output
from virtiomem.cli.changes.space_text import passed_line, space_line
from virtiomem.cli.manager import add_manager, connect


def _run(options: argparse.Namespace, output: Output) -> int:
    with connect(options) as client:
        spaces = client.spaces()
    output.data({"spaces": [space.data() for space in spaces]})
    for space in spaces:
        output.text(space_line(space))
        for passed in space.passed:
            output.text(passed_line(passed))
    if not spaces:
        output.text("no address spaces: what is plugged is mapped nowhere")
    return 0


COMMAND = Command(
    "spaces",
    "the address spaces that a running server maps what is plugged into",
    _run,
    add_manager,
    description="The address spaces of a running virtiomem serve: what each is of, the devices that the server has\n"
    "opened in it, and how many mappings it holds.",
    examples=(("virtiomem spaces", "of the one that runs"),),
)
