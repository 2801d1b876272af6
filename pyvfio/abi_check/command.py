"""The command: pyvfio abi-check."""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pyvfio.abi_check.errors import AbiCheckError
from pyvfio.abi_check.facts import Kind
from pyvfio.abi_check.mirror import MIRRORS, Mirror
from pyvfio.abi_check.report import AbiReport, HeaderReport, Row, Status, check
from pyvfio.texts import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare pyvfio's mirrors of the kernel's headers with what a C compiler says of them. "
        "Exit status: 0 nothing differs, 1 something does, 2 the check could not be made."
    )
    parser.add_argument("--include", type=Path, metavar="DIR", help="header tree that contains linux/ (default: cc's)")
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), help="C compiler (default: $CC or cc)")
    parser.add_argument(
        "--mirror",
        action="append",
        default=[],
        type=_mirror,
        metavar="HEADER=MODULE",
        help="check this Python module too, for example linux/virtio_mem.h=virtiomem.abi",
    )
    parser.add_argument("--json", action="store_true", help="print every name as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the names that agree too")


def run(args: argparse.Namespace) -> int:
    try:
        report = check(args.include, cc=args.cc, mirrors=[*MIRRORS, *args.mirror])
    except AbiCheckError as error:
        print(printable(f"abi-check: {error}"), file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(_data(report), indent=2))
    else:
        print("\n".join(map(printable, _text(report, verbose=args.verbose))))
    return 1 if report.differs else 0


def _mirror(argument: str) -> Mirror:
    header, separator, module = argument.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{argument!r} is not HEADER=MODULE")
    return Mirror(header, module)


_NAMES: Final = ("STRUCTS", "FIELDS", "NUMBERS")
_OTHERS: Final = [status for status in Status if status is not Status.AGREE]
_COLUMNS: Final = "{:<20} {:<9} {:>7} {:>7} {:>8} {:>7} {:>8} {:>14} {:>14}"


def _text(report: AbiReport, *, verbose: bool) -> Iterator[str]:
    yield _COLUMNS.format("HEADER", "LINUX", *_NAMES, *(_words(status).upper() for status in _OTHERS))
    for header in report.headers:
        yield _summary(header)
    for header in report.headers:
        details = [*_details(header, verbose=verbose)]
        if details:
            yield f"\n{header.header}"
            yield from details
    yield "\nStructs, fields and numbers are those that agree."
    yield "Something differs." if report.differs else "Nothing differs."


def _summary(header: HeaderReport) -> str:
    if header.path is None:
        return f"{header.header:<20} not in this tree"
    agreeing = (header.count(kind)[Status.AGREE] for kind in Kind)
    others = (len(_whole(header.having(status))) for status in _OTHERS)
    return _COLUMNS.format(header.header, header.release or "-", *agreeing, *others)


def _details(header: HeaderReport, *, verbose: bool) -> Iterator[str]:
    for row in header.rows:
        if row.status in (Status.DIFFER, Status.REVISED):
            yield f"  {row.status:<8} {row.kind} {row.name}: mirror {row.mirror}, header {row.header}"
        elif verbose and row.status is Status.AGREE:
            yield f"  {row.status:<8} {row.kind} {row.name}: {row.mirror}"
    for status in (Status.NOT_IN_MIRROR, Status.NOT_IN_HEADER):
        names = [row.name for row in _whole(header.having(status))]
        if names:
            text = f"{_words(status)}: {', '.join(names)}"
            yield textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _words(status: Status) -> str:
    return status.replace("_", " ")


def _whole(rows: tuple[Row, ...]) -> list[Row]:
    """The rows without the fields of structs that are among them."""
    structs = {row.name for row in rows if row.kind is Kind.STRUCT and row.status is not Status.REVISED}
    return [row for row in rows if row.kind is not Kind.FIELD or row.name.split(".")[0] not in structs]


def _data(report: AbiReport) -> dict[str, object]:
    return {
        "include": None if report.include is None else str(report.include),
        "differs": report.differs,
        "headers": [
            {
                "header": header.header,
                "module": header.module,
                "path": header.path,
                "linux": header.release,
                "counts": {
                    kind.value: {status.value: header.count(kind)[status] for status in Status} for kind in Kind
                },
                "rows": [
                    {
                        "kind": row.kind.value,
                        "name": row.name,
                        "status": row.status.value,
                        "mirror": row.mirror,
                        "header": row.header,
                    }
                    for row in header.rows
                ],
            }
            for header in report.headers
        ],
    }
