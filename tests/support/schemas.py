"""What every command prints with --json is what docs/schemas says it is."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

DIRECTORY = Path(__file__).parents[2] / "docs" / "schemas"


def checked(name: str, data: object) -> object:
    """data, if it is what schema name says; its documents have no key that the schema does not name."""
    schema = json.loads((DIRECTORY / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(data)
    return data
