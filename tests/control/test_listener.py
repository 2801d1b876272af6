"""Whose socket is whose, when others start and end at the same moment."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvfio import unix_socket
from pyvfio.unix_socket import Listener, Permissions


def replaced(path: Path) -> int:
    """Have another socket at path; its inode."""
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    return path.stat().st_ino


def test_a_socket_that_has_come_in_its_place_stays(tmp_path: Path) -> None:
    listener = Listener(str(tmp_path / "socket"))
    inode = replaced(tmp_path / "socket")
    listener.close()
    assert (tmp_path / "socket").stat().st_ino == inode


def test_a_socket_that_comes_in_its_place_as_it_ends_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its inode is looked at again when nobody else can start or end any more."""
    listener = Listener(str(tmp_path / "socket"))
    inodes = []

    @contextmanager
    def locked(place: Path) -> Iterator[None]:
        inodes.append(replaced(place))
        yield

    monkeypatch.setattr(unix_socket, "_locked", locked)
    listener.close()
    assert [(tmp_path / "socket").stat().st_ino] == inodes


def test_a_lock_whose_file_was_removed_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever held it before removes its file while this one waits: the next to come makes another one."""
    lock, calls = tmp_path / ".socket.lock", []

    def flock(fd: int, _: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            lock.unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    listener = Listener(str(tmp_path / "socket"))
    assert len(calls) == 2
    listener.close()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_whom_the_program_lets_may_connect_whatever_the_umask_is(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        listener = Listener(str(tmp_path / "socket"), permissions=Permissions(mode, os.getuid(), os.getgid()))
    finally:
        os.umask(before)
    status = (tmp_path / "socket").stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (mode, os.getuid(), os.getgid())
    listener.close()
