"""A state's file: what a process that is killed leaves of it is taken, and what others do to it is found out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvfio.errors import VfioError
from virtiomem.persistence import SlotFile

SLOT = 16 << 20
LONG = b"x" * 20000


def written(path: Path, *contents: bytes) -> None:
    with SlotFile(path) as file:
        for content in contents:
            file.write(content)


def content(path: Path) -> bytes | None:
    with SlotFile(path) as file:
        return file.content


@pytest.mark.parametrize("count", range(6))
def test_the_last_write_is_what_is_found(tmp_path: Path, count: int) -> None:
    path = tmp_path / "state"
    written(path, *(bytes([number]) for number in range(count)))
    assert content(path) == (bytes([count - 1]) if count else None)


@pytest.mark.parametrize("count", range(1, 5))
def test_a_write_that_was_not_finished_leaves_the_one_before(tmp_path: Path, count: int) -> None:
    path = tmp_path / "state"
    written(path, *[LONG + bytes([number]) for number in range(count)])
    # Whole pages come one after the other.
    with path.open("r+b") as file:
        file.seek(SLOT * (count % 2) + 8192)
        file.write(bytes(20000))
    assert content(path) == (LONG + bytes([count - 2]) if count > 1 else None)


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def foreign(path: Path) -> None:
    path.write_bytes(b"something else\n" * 1000)


def foreign_and_short(path: Path) -> None:
    path.write_bytes(b"short")


def first_slot_is_lost(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(4096))


@pytest.mark.parametrize(
    ("count", "harm"),
    [
        (2, lambda path: cut(path, SLOT)),
        (3, lambda path: cut(path, SLOT)),
        (3, lambda path: cut(path, 1000)),
        (4, first_slot_is_lost),
        (5, first_slot_is_lost),
        (1, foreign),
        (4, foreign),
        (1, foreign_and_short),
    ],
)
def test_a_file_of_which_something_is_missing_is_refused(
    tmp_path: Path, count: int, harm: Callable[[Path], None]
) -> None:
    """What is older than the last write is not taken for it, and what is somebody's is not written over."""
    path = tmp_path / "state"
    written(path, *[LONG] * count)
    harm(path)
    before = path.read_bytes()[:100000]
    with pytest.raises(VfioError, match="damaged"):
        SlotFile(path)
    assert path.read_bytes()[:100000] == before


def test_a_file_that_was_emptied_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    written(path, b"1", b"2", b"3")
    os.truncate(path, 0)
    assert content(path) is None
    written(path, b"4")
    assert content(path) == b"4"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_file_that_was_removed_is_made_anew(tmp_path: Path, count: int) -> None:
    path = tmp_path / "state"
    with SlotFile(path) as file:
        for number in range(count):
            file.write(bytes([number]))
        path.unlink()
        file.write(b"after")
        with pytest.raises(VfioError, match="another process has it open"):
            SlotFile(path)
        assert path.stat().st_mode & 0o777 == 0o600
    assert content(path) == b"after"


def test_a_file_that_another_one_has_replaced_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "state"
    other = tmp_path / "other"
    written(other, b"other")
    with SlotFile(path) as file:
        file.write(b"1")
        other.rename(path)
        with pytest.raises(VfioError, match="cannot be opened"):
            file.write(b"2")
        assert file.content == b"1"
        path.unlink()
        file.write(b"3")
    assert content(path) == b"3"


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "others may read it"])
def test_what_is_no_file_of_this_users_is_no_state(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "state"
    if kind == "symlink":
        written(tmp_path / "elsewhere", b"1")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "directory":
        path.mkdir()
    else:
        written(path, b"1")
        path.chmod(0o644)
    with pytest.raises(VfioError, match="state in "):
        SlotFile(path)
