"""What a package says that it hands on, it has."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FACES = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for package in ("pyvfio", "virtiomem")
    for path in (ROOT / package).rglob("__init__.py")
)


@pytest.mark.parametrize("name", FACES)
def test_every_name_of_a_face_is_there(name: str) -> None:
    face = importlib.import_module(name)
    assert [each for each in getattr(face, "__all__", ()) if not hasattr(face, each)] == []
