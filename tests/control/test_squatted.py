"""Directories, names and files that another user has put where a manager's are looked for."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from pyvfio import VfioError
from pyvfio.commandline import Output
from pyvfio.unix_socket import Listener
from tests.support.virtiomem.managers import Running
from virtiomem.cli import main
from virtiomem.cli.telling import telling
from virtiomem.control import ControlClient, ControlRefused, places
from virtiomem.persistence.notify_socket import NotifySocket


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "runtime"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(places, "directory", lambda: path)
    return path


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o1777])
@pytest.mark.parametrize("arguments", [("show",), ("show", "--name", "vm0"), ("resize", "1G"), ("stop", "--name", "x")])
def test_a_directory_that_others_may_use_says_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], mode: int, arguments: tuple[str, ...]
) -> None:
    place.chmod(mode)
    with closing(Listener(str(place / "vm0.sock"))):
        assert main([*arguments]) == 1
    assert "it is not this user's alone" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")
def test_a_directory_that_another_user_owns_says_nothing(place: Path) -> None:
    os.chown(place, 65534, -1)
    with pytest.raises(VfioError, match="not this user's alone"):
        places.running()


def test_a_link_to_a_directory_is_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = place.parent / "link"
    link.symlink_to(place)
    monkeypatch.setattr(places, "directory", lambda: link)
    with pytest.raises(VfioError, match="not this user's alone"):
        places.running()


def test_where_there_is_no_directory_nobody_runs(place: Path) -> None:
    place.rmdir()
    assert places.running() == []


@contextmanager
def served(place: Path, names: list[str]) -> Iterator[None]:
    """Sockets of these names that somebody serves."""
    with ExitStack() as stack:
        for name in names:
            endpoint = stack.enter_context(socket.socket(socket.AF_UNIX))
            endpoint.bind(str(place / f"{name}.sock"))
            endpoint.listen()
        yield


def test_names_of_sockets_are_printed_without_an_effect(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(place, ["a", "b", "c\x1b[2J", "d\u2028"]):
        assert places.running() == ["a", "b"]
        assert main(["show"]) == 1
    assert "say which with --name: a, b\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["errorcode", "__doc__", "EVIL", None, 5])
def test_an_errno_that_is_none_is_an_error_all_the_same(
    manager: Running, monkeypatch: pytest.MonkeyPatch, name: object
) -> None:
    with ControlClient(manager.path) as client:
        answer = {"ok": False, "errno": name, "error": "no"}
        monkeypatch.setattr("virtiomem.control.client.read_object", lambda *_: answer)
        with pytest.raises(ControlRefused) as caught:
            client.request("show")
    assert caught.value.errno == 5


def test_a_log_has_no_effect_and_a_message_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with telling(Output(sys.stdout)):
        logging.getLogger("virtiomem").warning("%s has gone", "a\x1b[2J\nroot: all is well\u2028")
    assert r"a\x1b[2J\nroot: all is well\u2028 has gone" in capfd.readouterr().err


def test_what_a_start_that_was_killed_has_left_goes_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    child = os.fork()
    if child == 0:
        Path.rename = lambda *_: os._exit(9)  # type: ignore[method-assign]
        Listener(str(path))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len([*tmp_path.iterdir()]) == 2
    Listener(str(path)).close()
    assert [*tmp_path.iterdir()] == []


def test_what_a_keeper_that_was_killed_has_left_goes_with_the_next(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        _left = NotifySocket(tmp_path)
        os._exit(0)
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    with NotifySocket(tmp_path) as one:
        assert [*tmp_path.iterdir()] == [one.path]
        assert one.path != left
