"""The undo file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyvfio.host import UndoFile
from pyvfio.host.binding import Binding

FIRST = Binding("0000:03:00.0", "igb", None)
SECOND = Binding("0000:04:00.0", None, "vfio-pci")


def test_what_was_first_stays(tmp_path: Path) -> None:
    undo = UndoFile(tmp_path / "run" / "undo")
    assert undo.read() == []
    undo.remember([FIRST])
    undo.remember([Binding(FIRST.address, "vfio-pci", "vfio-pci"), SECOND])
    assert undo.read() == [FIRST, SECOND]
    undo.forget([FIRST.address])
    assert undo.read() == [SECOND]
    undo.forget([SECOND.address])
    assert not undo.path.exists()
    assert os.listdir(undo.path.parent) == []


def test_it_is_on_disk_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(fd: int) -> None:
        order.append("directory" if Path(os.readlink(f"/proc/self/fd/{fd}")).is_dir() else "file")
        sync(fd)

    def renamed(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    UndoFile(tmp_path / "undo").remember([FIRST])
    assert order == ["file", "rename", "directory"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2, "devices": []}', '{"version": 1, "devices": [{"address": 1}]}']
)
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "undo"
    path.write_text(text)
    with pytest.raises(ValueError, match="undo"):
        UndoFile(path).read()
    with pytest.raises(ValueError, match="undo"):
        UndoFile(path).remember([FIRST])
    assert path.read_text() == text
