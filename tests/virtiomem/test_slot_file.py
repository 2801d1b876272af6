"""SlotFile and Record: what a process that is killed leaves is whole; what is none of ours is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyvfio.errors import VfioError
from virtiomem.persistence import InHand, MemoryIdentity, Record, SlotFile, state_directory, state_file

CONTENTS = (b"one", b"two" * 1000, b"")


def test_the_last_content_is_found_by_the_next_who_opens(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with SlotFile(path) as file:
        assert file.content is None
    for content in CONTENTS:
        with SlotFile(path) as file:
            file.write(content)
            assert file.content == content
        with SlotFile(path) as file:
            assert file.content == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("kept", range(0, 60, 7))
def test_a_write_that_was_cut_off_does_not_count(tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the process is killed in it, or the disk is full: the content is the one before, however much came."""
    path = tmp_path / "state"
    whole = os.pwrite
    with SlotFile(path) as file:
        file.write(b"before before")
        file.write(b"last")
        monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:kept], offset))
        with pytest.raises(VfioError) as refused:
            file.write(b"after" * 10)
        assert refused.value.errno == errno.ENOSPC
        monkeypatch.undo()
        assert file.content == b"last"
    with SlotFile(path) as file:
        assert file.content == b"last"
        file.write(b"next")
    with SlotFile(path) as file:
        assert file.content == b"next"


def test_one_process_at_a_time_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with SlotFile(path):
        with pytest.raises(VfioError) as refused:
            SlotFile(path)
        assert refused.value.errno == errno.EBUSY
        program = f"from pathlib import Path; from virtiomem.persistence import SlotFile; SlotFile(Path({str(path)!r}))"
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
        assert "another process has it open" in ended.stderr
    SlotFile(path).close()


def test_what_is_not_this_users_alone_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.touch(0o600)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(VfioError):
        SlotFile(tmp_path / "link")
    path.chmod(0o640)
    with pytest.raises(VfioError) as refused:
        SlotFile(path)
    assert "this user's alone" in str(refused.value)
    with pytest.raises(VfioError):
        SlotFile(tmp_path / "nowhere" / "state")


def test_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    with SlotFile(tmp_path / "state") as file:
        file.write(b"last")
        with pytest.raises(VfioError) as refused:
            file.write(bytes(16 << 20))
        assert (refused.value.errno, file.content) == (errno.EFBIG, b"last")


RECORDS = (
    Record("boot", b"state"),
    Record("boot", b"", MemoryIdentity(1, 1 << 63, 4096), InHand(0x8001_8001, b"request", b"answer")),
)


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_is_what_its_bytes_say(record: Record) -> None:
    assert Record.parse(bytes(record)) == record


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"version": 2}',
        b'{"version": 1, "boot": "x", "state": "zz", "memory": null, "in_hand": null}',
        b'{"version": 1, "boot": "x", "state": "", "memory": [1, 2], "in_hand": null}',
        b'{"version": 1, "boot": "x", "state": "", "memory": 7, "in_hand": null}',
        b'{"version": 1, "boot": "x", "state": "", "memory": null, "in_hand": ["a", "b", "c"]}',
    ],
)
def test_a_record_that_is_none_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(VfioError) as refused:
        Record.parse(data)
    assert refused.value.errno == errno.EPROTO


def test_states_have_a_directory_that_nobody_else_writes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/one:{tmp_path}/two")
    assert state_directory() == tmp_path / "one"
    assert state_file(state_directory(), "vm0") == tmp_path / "one" / "vm0.state"
    (tmp_path / "one").chmod(0o777)
    with pytest.raises(VfioError) as refused:
        state_file(state_directory(), "vm0")
    assert "--no-state" in str(refused.value)
    (tmp_path / "file").touch()
    with pytest.raises(VfioError):
        state_file(tmp_path / "file" / "below", "vm0")
    for name in ("a/b", ".hidden"):
        with pytest.raises(VfioError):
            state_file(tmp_path, name)
