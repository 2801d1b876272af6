"""Compare the mirrors of pyvfio.abi with what a C compiler says of a tree of kernel headers."""

from pyvfio.abi_check.command import add_arguments, run
from pyvfio.abi_check.errors import AbiCheckError
from pyvfio.abi_check.facts import Kind
from pyvfio.abi_check.mirror import MIRRORS, Mirror
from pyvfio.abi_check.report import AbiReport, HeaderReport, Row, Status, check

__all__ = [
    "MIRRORS",
    "AbiCheckError",
    "AbiReport",
    "HeaderReport",
    "Kind",
    "Mirror",
    "Row",
    "Status",
    "add_arguments",
    "check",
    "run",
]
