"""The same parsers under atheris, which is guided by coverage, where that is installed: pip install .[fuzz]."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from tests.fuzz.campaign import tried
from tests.fuzz.parser import CORPORA, Parser


def guided(parser: Parser) -> int:
    """Run until Ctrl-C or the first finding, from the corpus on. New inputs are written nowhere."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: .venv/bin/pip install '.[fuzz]'", file=sys.stderr)
        return 2

    def one(data: bytes) -> None:
        if (finding := tried(parser, data)) is not None:
            raise AssertionError(str(finding))

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], str(CORPORA / parser.name)], one)
    atheris.Fuzz()
    return 0
