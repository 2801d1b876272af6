"""What a package says that it hands on, it has."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
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


@pytest.mark.parametrize("name", FACES)
def test_a_face_that_imports_later_gives_what_it_tells_the_type_checker(name: str) -> None:
    """What stands under TYPE_CHECKING, name by name, is what __getattr__ finds, and what dir() and * list."""
    face = importlib.import_module(name)
    if not hasattr(face, "__getattr__"):
        return
    assert face.__file__ is not None
    [told] = [node for node in ast.parse(Path(face.__file__).read_text()).body if isinstance(node, ast.If)]
    imports = [node for node in told.body if isinstance(node, ast.ImportFrom)]
    names = [(node.module or "", each.name) for node in imports for each in node.names]
    assert {each for _, each in names} == set(face.__all__)
    for module, each in names:
        assert getattr(face, each) is getattr(importlib.import_module(module), each)
    assert set(face.__all__) <= set(dir(face))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = face.nonsense


@pytest.mark.parametrize("name", ["pyvfio", "virtiomem"])
def test_importing_a_package_imports_no_room(name: str) -> None:
    program = (
        f"import sys, {name}; print(*(each for each in sys.modules if each.split('.')[0] in ('pyvfio', 'virtiomem')))"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert set(run.stdout.split()) <= {"pyvfio", "pyvfio.deferred", "pyvfio.version", "virtiomem"}


def test_the_rooms_of_a_package_are_attributes_as_ever() -> None:
    program = (
        "import pyvfio, virtiomem; print(pyvfio.container.Container is pyvfio.Container, virtiomem.runs.Run.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.split() == ["True", "Run"]


def test_threads_may_ask_for_names_at_the_same_time() -> None:
    """Each finds what all find, though none of it is imported when they begin, and they begin at different rooms."""
    program = """
import pyvfio, sys, threading
start, found = threading.Barrier(8), []
def ask(names):
    start.wait()
    found.append({name: getattr(pyvfio, name) for name in names})
names = pyvfio.__all__
sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=ask, args=(names[i * 13:] + names[:i * 13],)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(found), all(each == found[0] for each in found))
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.split() == ["8", "True"], run.stderr
