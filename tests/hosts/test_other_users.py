"""What another user of the host can write, hold or leave: nothing of it deceives, delays or stops who binds devices."""

from __future__ import annotations

import fcntl
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvfio import VfioError
from pyvfio.commandline import Output, Style
from pyvfio.host import Binding, UndoFile
from pyvfio.host.doctor.surroundings import is_container
from tests.support.hosts import FakeHost

NIC = "0000:03:00.0"
ENTRY = Binding(NIC, "igb", None)


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    fake_host.driver("vfio-pci")
    fake_host.pci(NIC, "8086:1521", 0x020000, driver="igb", group=12)
    return fake_host


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0c", "\xa0", "\x1c"])
def test_a_mount_point_does_not_make_the_host_a_container(host: FakeHost, separator: str) -> None:
    """A user mounts what they like in a directory whose name holds what looks like a line of its own."""
    line = f"1 1 0:1 /containers/x /etc/hosts rw - tmpfs tmpfs rw{separator}"
    host.file(
        "/proc/self/mountinfo", f"22 1 0:25 / / rw - tmpfs tmpfs rw\n23 1 0:26 / /mnt/{separator}{line} rw - x y rw\n"
    )
    assert not is_container(host.kernel)
    host.file("/proc/self/mountinfo", "22 1 0:25 /containers/x /etc/hosts rw - tmpfs tmpfs rw\n")
    assert is_container(host.kernel)


def test_a_swap_file_of_another_name_is_not_the_disk(host: FakeHost) -> None:
    """The kernel escapes blanks and tabs in names, and no other separator."""
    host.pci("0000:04:00.0", "144d:a808", 0x010802, driver="nvme", group=13)
    place = "/sys/devices/pci0000:00/0000:04:00.0"
    host.disk("nvme0n1", f"{place}/nvme/nvme0", "259:0")
    host.file("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/nvme0n1\xa0x\tfile\t1\t0\t-2\n")
    assert host.run("bind", "04:00.0").status == 0


def evil_driver(host: FakeHost) -> tuple[str, ...]:
    host.pci("0000:05:00.0", "1234:11e8", driver="e\x1b[2J", group=14)
    return ("list", "-w")


def evil_reset(host: FakeHost) -> tuple[str, ...]:
    host.pci("0000:05:00.0", "1234:11e8", driver="x", group=14, reset_method="flr\x1b]0;owned\x07")
    return ("show", "05:00.0")


def evil_names(host: FakeHost) -> tuple[str, ...]:
    host.file("/usr/share/hwdata/pci.ids", "8086  Intel\x1b[2J\u2028\n\t1521  I350\x9b31m\n")
    return ("show", NIC)


def evil_argument(_: FakeHost) -> tuple[str, ...]:
    return ("bind", "\x1b[2J")


def evil_command(_: FakeHost) -> tuple[str, ...]:
    return ("\x1b[2J",)


def evil_program(host: FakeHost) -> tuple[str, ...]:
    host.node("drm", "card0", host.pci("0000:05:00.0", "1234:11e8", 0x030000, driver="x", group=14), "dri/card0")
    host.process(7, "a\x1b[2Jb\u2028", "/dev/dri/card0")
    return ("bind", "05:00.0")


@pytest.mark.parametrize(
    "prepare",
    [evil_driver, evil_reset, evil_names, evil_argument, evil_command, evil_program],
    ids=lambda each: each.__name__,
)
def test_whatever_others_write_is_printed_without_an_effect(
    host: FakeHost, prepare: Callable[[FakeHost], tuple[str, ...]]
) -> None:
    said = host.run(*prepare(host)).said
    assert said
    assert all(char.isprintable() for char in said.replace("\n", ""))


@pytest.mark.parametrize("colour", [False, True])
def test_a_terminal_is_sent_nothing_but_colours(colour: bool) -> None:
    stream = io.StringIO()
    output = Output(stream)
    output.colour = colour
    output.text(output.paint("\x1b[2Ja", Style.RED) + "\x9b\u2028\x1b]0;b\x07\x1b")
    output.table([["a\nb", output.paint("c", Style.RED)], ["\x1b[2J", "\r"]])
    output.redraw_line("a\r\x1b[Kb")
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue().replace("\r\x1b[K", "", 1))
    assert ("\x1b[31m" in stream.getvalue()) == colour
    assert all(char.isprintable() for char in text.replace("\n", ""))
    assert text.count("\n") == 3


def test_whoever_may_read_the_directory_holds_nothing_up(tmp_path: Path) -> None:
    """Whoever can open a file for reading can flock(2) it: anybody can the directory of the undo file."""
    undo = UndoFile(tmp_path / "undo.json")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        undo.remember([ENTRY])
        assert undo.read() == [ENTRY]
    finally:
        os.close(fd)


def test_the_lock_is_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undo, modes = UndoFile(tmp_path / "undo.json"), []
    lock = fcntl.flock

    def seen(fd: int, operation: int) -> None:
        modes.append((os.fstat(fd).st_mode & 0o777, os.fstat(fd).st_uid))
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", seen)
    undo.remember([ENTRY])
    assert modes == [(0o600, os.geteuid())]


@pytest.mark.parametrize("mode", [0o644, 0o666])
def test_a_lock_that_others_may_hold_is_refused(tmp_path: Path, mode: int) -> None:
    lock = tmp_path / ".undo.json.lock"
    lock.touch()
    lock.chmod(mode)
    with pytest.raises(VfioError, match="not this user's alone"):
        UndoFile(tmp_path / "undo.json").remember([ENTRY])


def test_a_process_of_the_same_user_is_waited_for_and_named_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyvfio.host.undo._PATIENCE", 0.0)
    lock = tmp_path / ".undo.json.lock"
    fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(VfioError, match="another process of this user changes devices"):
            UndoFile(tmp_path / "undo.json").remember([ENTRY])
    finally:
        os.close(fd)
    UndoFile(tmp_path / "undo.json").remember([ENTRY])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["undo.json"]


def test_what_a_killed_process_has_left_goes_with_the_next_change(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os.replace = Path.replace = lambda *_: os._exit(9)  # type: ignore[assignment,method-assign]
        UndoFile(tmp_path / "undo.json").remember([ENTRY])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len([*tmp_path.iterdir()]) == 2
    UndoFile(tmp_path / "undo.json").remember([ENTRY])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["undo.json"]
