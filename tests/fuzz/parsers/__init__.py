"""The registry: each parser of outside data once, by its name. A new one comes into the list of its subject's file."""

from __future__ import annotations

from tests.fuzz.parser import Parser
from tests.fuzz.parsers.answers import ANSWERS
from tests.fuzz.parsers.files import FILES
from tests.fuzz.parsers.guest import GUEST
from tests.fuzz.parsers.peers import PEERS
from tests.fuzz.parsers.procfs import PROCFS
from tests.fuzz.parsers.words import WORDS

PARSERS: dict[str, Parser] = {parser.name: parser for parser in (*ANSWERS, *FILES, *GUEST, *PEERS, *PROCFS, *WORDS)}
