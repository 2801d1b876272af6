"""Descriptors that outlive a process: who keeps them, under which names, and for whom."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvfio import VfioError
from virtiomem.persistence import DescriptorStore, Keeper, NotifySocket, ServiceManager, inherited

PROGRAM = """
import os, sys
from virtiomem.persistence import DescriptorStore, ServiceManager, inherited
environment = dict(os.environ)
manager = ServiceManager.of(environment)
left = inherited(environment)
assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & environment.keys()
store = DescriptorStore(manager, left)
"""


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[NotifySocket]:
    with NotifySocket(tmp_path) as notify:
        yield notify


class Kept:
    """What a NotifySocket keeps of this process, whose messages another thread takes."""

    def __init__(self, notify: NotifySocket) -> None:
        self.notify = notify
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        while not self._ending.wait(0.005):
            self.notify.take(os.getpid())
        self.notify.take(os.getpid())

    def __enter__(self) -> DescriptorStore:
        return DescriptorStore(ServiceManager(str(self.notify.path)))

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


def kinds(notify: NotifySocket) -> list[str]:
    return [name.partition(".")[0] for name, _ in notify.stored]


def test_what_is_kept_has_a_name_until_nobody_uses_it(notify: NotifySocket) -> None:
    file = os.memfd_create("kept")
    with Kept(notify) as store:
        name = store.keep(file, "memory")
        os.close(file)
        assert kinds(notify) == ["memory"]
        other = store.use(name)
        store.drop(name)
        assert kinds(notify) == ["memory"]
        store.drop(name)
        os.close(other)
        with pytest.raises(VfioError, match="did not keep it"):
            store.use(name)
    assert notify.stored == ()


def test_one_open_file_has_one_name_however_often_it_comes(notify: NotifySocket) -> None:
    """systemd keeps it once: under another name it would not be found again."""
    file, same_number = os.memfd_create("kept"), os.memfd_create("kept")
    event, other_event = os.eventfd(0), os.eventfd(0)
    copy = os.dup(file)
    reopened = os.open(f"/proc/self/fd/{file}", os.O_RDWR)
    with Kept(notify) as store:
        names = [store.keep(fd, "memory") for fd in (file, copy, reopened, same_number, event, other_event)]
    assert names[0] == names[1]
    assert len(set(names)) == 5
    assert len(notify.stored) == 5
    store.close()
    for fd in (file, same_number, event, other_event, copy, reopened):
        os.close(fd)


def test_what_nobody_uses_any_more_is_let_go(notify: NotifySocket) -> None:
    files = [os.memfd_create("kept") for _ in range(3)]
    with Kept(notify) as store:
        names = [store.keep(file, "memory") for file in files]
        following = DescriptorStore(
            ServiceManager(str(notify.path)), [(name, os.dup(fd)) for name, fd in notify.stored]
        )
        os.close(following.use(names[1]))
        following.drop_unused()
        following.close()
    assert [name for name, _ in notify.stored] == [names[1]]
    store.close()
    for file in files:
        os.close(file)


def test_a_listening_socket_is_found_by_its_path(notify: NotifySocket, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made_by_us, socket.socket(socket.AF_UNIX) as made_by_systemd:
        made_by_us.bind(str(tmp_path / "elsewhere at first"))
        made_by_systemd.bind(str(tmp_path / "activated"))
        made_by_us.listen()
        made_by_systemd.listen()
        with Kept(notify) as store:
            store.keep_listening(made_by_us.fileno(), str(tmp_path / "ours"))
            left = [(name, os.dup(fd)) for name, fd in notify.stored]
            left += [("virtiomem@vm0.socket", os.dup(made_by_systemd.fileno()))]
            following = DescriptorStore(ServiceManager(str(notify.path)), left)
            # A socket that we have made had another address before it was given its place.
            for path, is_ours in (("ours", True), ("activated", False), ("elsewhere at first", False)):
                found = following.listening_at(str(tmp_path / path))
                assert found is not None
                assert found.is_ours is is_ours
                found.endpoint.close()
            assert following.listening_at(str(tmp_path / "nowhere")) is None
            following.close()
            store.close()


def test_only_the_program_itself_is_listened_to(notify: NotifySocket) -> None:
    file = os.memfd_create("kept")
    child = os.fork()
    if not child:
        ServiceManager(str(notify.path)).store("memory.000000000000", file)
        os._exit(0)
    os.waitpid(child, 0)
    notify.take(os.getpid())
    assert notify.stored == ()
    ServiceManager(str(notify.path)).store("memory.000000000000", file)
    notify.take(os.getpid())
    assert kinds(notify) == ["memory"]
    os.close(file)


@pytest.mark.parametrize("name", ["", "a:b", "a\nREADY=1", "\u2028", "x" * 5000])
def test_names_that_no_program_gives_are_dropped(notify: NotifySocket, name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as endpoint, Path("/dev/null").open() as file:
        endpoint.connect(str(notify.path))
        socket.send_fds(endpoint, [f"FDSTORE=1\nFDNAME={name}".encode()], [file.fileno()])
        notify.take(os.getpid())
    assert not [kept for kept, _ in notify.stored if kept != "a"]


def test_nobody_who_does_not_answer_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtiomem.persistence.service_manager._PATIENCE", 0.1)
    with NotifySocket(tmp_path) as notify:
        store = DescriptorStore(ServiceManager(str(notify.path)))
        with pytest.raises(VfioError, match="ETIMEDOUT"):
            store.keep(0, "memory")
        # Nor is it kept for nobody when he does at last.
        notify.take(os.getpid())
        assert notify.stored == ()
    with pytest.raises(VfioError, match=r"unset NOTIFY_SOCKET"):
        store.keep(0, "memory")
    store.close()


def test_what_is_inherited_is_taken_once_and_only_by_whom_it_is_for() -> None:
    mine = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}
    for environment in (
        {**mine, "LISTEN_PID": "1", "LISTEN_FDS": "2"},
        {**mine, "LISTEN_FDS": "two"},
        {**mine, "LISTEN_FDS": "-1"},
        {**mine, "LISTEN_FDS": "9" * 5000},
        {**mine, "LISTEN_FDS": "\u0661"},
        mine,
        {},
    ):
        assert inherited(environment) == []
        assert not environment


def run(tmp_path: Path, program: str) -> tuple[int, list[str]]:
    said: list[str] = []
    command = [sys.executable, "-c", PROGRAM + program, str(tmp_path / "log")]
    with Keeper(command, tmp_path, say=said.append) as keeper:
        return keeper.run(), said


def test_a_program_that_is_killed_finds_what_it_had(tmp_path: Path) -> None:
    status, said = run(
        tmp_path,
        """
if left:
    (name, fd), = left
    assert fd == 3 and not os.get_inheritable(fd)
    os.lseek(store.use(name), 0, 0)
    sys.exit(0 if os.read(3, 5) == b"value" else 7)
file = os.memfd_create("kept")
os.write(file, b"value")
store.keep(file, "memory")
manager.ready()
manager.wait()
os.kill(os.getpid(), 9)
""",
    )
    assert status == 0
    assert len(said) == 1
    assert "ended with 137, and is started again: 1 descriptors are kept" in said[0]
    assert not list(tmp_path.glob(".keep*"))


def test_a_program_that_was_never_ready_is_not_started_again(tmp_path: Path) -> None:
    status, said = run(tmp_path, "sys.exit(3)")
    assert status == 3
    assert "is not started again" in said[0]


def run_by(tmp_path: Path, program: str, do: Callable[[Keeper], None]) -> int:
    """The status of program, with which do is done when it has written to the file it is given."""
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROGRAM + program, str(log)]
    with Keeper(command, tmp_path) as keeper:

        def wait_and_do() -> None:
            while not log.exists():
                threading.Event().wait(0.01)
            do(keeper)

        thread = threading.Thread(target=wait_and_do)
        thread.start()
        try:
            return keeper.run()
        finally:
            thread.join()


def test_a_program_that_is_replaced_before_it_was_ready_is_started_again(tmp_path: Path) -> None:
    program = """
import signal
if os.path.exists(sys.argv[1]):
    sys.exit(7)
open(sys.argv[1], "w").close()
signal.pause()
"""
    assert run_by(tmp_path, program, Keeper.replace) == 7


def test_a_program_that_tells_without_end_is_listened_to_in_turns(
    notify: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virtiomem.persistence.notify_socket._TURN", 2)
    manager = ServiceManager(str(notify.path))
    manager.stopping()
    manager.stopping()
    manager.ready()
    notify.take(os.getpid())
    assert not notify.is_ready
    notify.take(os.getpid())
    assert notify.is_ready


def test_a_program_that_is_replaced_or_ended_gets_sigterm(tmp_path: Path) -> None:
    program = """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
store.keep(os.memfd_create("kept"), "memory") if not left else None
manager.ready()
manager.wait()
open(sys.argv[1], "a").write(f"{len(left)}\\n")
signal.pause()
"""
    command = [sys.executable, "-m", "virtiomem", "keep", "--", sys.executable, "-c", PROGRAM + program]
    log = tmp_path / "log"
    log.touch()
    with subprocess.Popen([*command, str(log)], env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}) as process:

        def wait_for(lines: list[str]) -> None:
            for _ in range(3000):
                if log.read_text().split() == lines:
                    return
                threading.Event().wait(0.01)
            raise AssertionError(log.read_text())

        wait_for(["0"])
        process.send_signal(signal.SIGHUP)
        wait_for(["0", "1"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
