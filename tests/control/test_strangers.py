"""Who asks too much, too slowly or nothing: nobody else notices, and what is printed is printable."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyvfio import InvalidArgument, VfioError
from pyvfio.unix_socket import Listener
from tests.support.thorough import is_thorough
from tests.support.virtiomem.managers import Running
from virtiomem.control import ControlClient, ControlRefused, ControlServer, ManagedDevice, MetricsPort, places

PROGRAM = "import sys; from virtiomem.cli import main; sys.exit(main())"


def answer_to(path: Path, line: bytes) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        peer.sendall(line + b"\n")
        with peer.makefile("rb") as answers:
            value = json.loads(answers.readline())
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"command":"show","after":0,"timeout":1' + b"0" * 400 + b"}", ""),
        (b'{"command":"show","after":1' + b"0" * 400 + b"}", "after must be a whole number of 64 bits"),
        (b'{"command":"resize","requested_size":-1' + b"0" * 400 + b"}", "requested_size must be a whole number of 64"),
        (b'{"command":"show","timeout":NaN}', "timeout must be seconds"),
        (b'{"command":"' + b"x" * 5000 + b'"}', "there is no command 'xxx"),
        (b'{"command":"\\u001b[2J"}', "there is no command '\\x1b[2J'"),
    ],
)
def test_numbers_and_words_of_any_length(manager: Running, line: bytes, error: str) -> None:
    answer = answer_to(manager.path, line)
    assert answer["ok"] is not bool(error)
    assert error in str(answer.get("error", ""))
    assert len(str(answer.get("error", ""))) < 200


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "\x1b[2J", "a\u2028b"])
def test_a_name_is_printable_and_not_long(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="printed"):
        places.socket_path(name)

    class Device:
        pass

    Device.name = name  # type: ignore[attr-defined]
    with ControlServer(str(tmp_path / "socket"), lambda: None) as server, pytest.raises(InvalidArgument):
        server.manage(ManagedDevice(Device(), None, "", 0))  # type: ignore[arg-type]


def test_no_two_devices_have_one_name(manager: Running) -> None:
    with pytest.raises(InvalidArgument, match="another device has that name"):
        manager.server.manage(manager.manager.managed)


@contextmanager
def impostor(path: Path, answer: dict[str, object]) -> Iterator[None]:
    """Says answer to whoever asks."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(json.dumps(answer).encode() + b"\n")

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield


def test_what_a_server_says_is_printed_safely(manager: Running, tmp_path: Path) -> None:
    with ControlClient(manager.path) as client:
        result = client.request("show")
    devices = result["devices"]
    assert isinstance(devices, list)
    evil = "\x1b[2Jowned\n"
    devices[0] |= {"name": evil, "guest": evil, "waiting_for": evil, "divergences": [evil]}
    devices[0]["address_spaces"][0]["name"] = evil
    with impostor(tmp_path / "one", {"ok": True, "result": result}), ControlClient(tmp_path / "one") as client:
        (status,) = client.show()[1]
    words = (status.name, status.guest, status.waiting_for, *status.divergences, status.address_spaces[0].name)
    assert words == ("\\x1b[2Jowned\\n",) * 5
    refusal = {"ok": False, "errno": "EIO", "error": evil}
    with (
        impostor(tmp_path / "two", refusal),
        ControlClient(tmp_path / "two") as client,
        pytest.raises(ControlRefused) as caught,
    ):
        client.show()
    assert str(caught.value) == "\\x1b[2Jowned\\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_another_users_server_is_not_asked(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        directory.chmod(directory.stat().st_mode | 0o055)
    place = tmp_path / "squatted"
    place.mkdir()
    place.chmod(0o777)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(place / "socket"))
        server.listen()
        os.write(told, b"x")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(ready, 1)
        with pytest.raises(VfioError, match="user 65534 serves it"):
            ControlClient(place / "socket")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def test_a_client_that_does_not_read_delays_nobody(manager: Running) -> None:
    """Neither another client nor the end: the server's own close() has a second for all of them."""
    with ExitStack() as peers:
        for _ in range(3):
            peer = peers.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(str(manager.path))
            peer.setblocking(False)
            try:
                while True:
                    peer.send(b'{"command":"metrics"}\n' * 100)
            except BlockingIOError:
                pass
        before = time.monotonic()
        with ControlClient(manager.path) as client:
            client.show()
        manager.server.close()
        assert time.monotonic() - before < 5.0


def test_clients_that_say_nothing_make_room(manager: Running) -> None:
    with ExitStack() as peers:
        for _ in range(64):
            peer = peers.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(str(manager.path))
            peer.sendall(b'{"comm')
        with ControlClient(manager.path) as client:
            assert client.show()[1]


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_control_socket_outlives_a_lack_of_descriptors(manager: Running) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        with no_descriptors():
            peer.connect(str(manager.path))
            time.sleep(0.2)
        peer.sendall(b'{"command":"show"}\n')
        peer.settimeout(10)
        assert peer.recv(10)


def get(url: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("LOCALHOST:{port}", 200), ("evil.example", 421), ("127.0.0.1.evil.example:{port}", 421)],
)
def test_metrics_are_for_who_asks_this_machine(host: str, status: int) -> None:
    """A page on the web can have a browser ask 127.0.0.1 by a name of its own."""
    with MetricsPort(0, lambda: "x 1\n") as port:
        assert get(port.url, host.format(port=port.url.split(":")[2].split("/")[0]))[0] == status


def test_a_metrics_port_has_a_limit_of_clients_and_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtiomem.control.metrics_port._PATIENCE", 0.5)
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    with MetricsPort(0, lambda: "x 1\n") as port, ExitStack() as peers:
        number = int(port.url.split(":")[2].split("/")[0])
        for count in range(100):
            peer = peers.enter_context(socket.create_connection(("127.0.0.1", number)))
            peer.sendall(b"GET /metrics HTTP/1.1\r\n" if count % 2 else b"")
        assert threading.active_count() == threads + 1
        # Ours is one of them, the 16 it serves, and three that are its own.
        assert len(os.listdir("/proc/self/fd")) <= before + 100 + 16 + 4
        slow = time.monotonic()
        assert get(port.url) == (200, "x 1\n")
        assert time.monotonic() - slow < 10


@pytest.mark.parametrize(
    "request_",
    [b"\n\n", b"\r\n\r\n", b"GET\r\n\r\n", b"GET /metrics\r\nHost\r\n\r\n", b"\xff" * 9000, b"POST /metrics x\r\n\r\n"],
)
def test_what_is_no_request_for_metrics_harms_nobody(request_: bytes) -> None:
    with MetricsPort(0, lambda: "x 1\n") as port:
        number = int(port.url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", number)) as peer:
            peer.sendall(request_)
            peer.settimeout(10)
            try:
                while peer.recv(1000):
                    pass
            except ConnectionResetError:
                pass
        assert get(port.url) == (200, "x 1\n")


def test_metrics_outlive_a_lack_of_descriptors() -> None:
    with MetricsPort(0, lambda: "x 1\n") as port:
        number = int(port.url.split(":")[2].split("/")[0])
        with socket.socket() as peer, no_descriptors():
            peer.connect(("127.0.0.1", number))
            time.sleep(0.2)
        assert get(port.url) == (200, "x 1\n")


def test_a_socket_that_was_left_behind_is_no_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtiomem.control.places.directory", lambda: tmp_path)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "vm0.sock"))
    with ControlServer(str(tmp_path / "vm1.sock"), lambda: None):
        assert places.running() == ["vm1"]


def test_a_server_that_lets_nobody_in_at_the_moment_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Asking it does not wait either."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as busy, ExitStack() as peers:
        busy.bind(path)
        busy.listen(0)
        for _ in range(3):
            peer = peers.enter_context(socket.socket(socket.AF_UNIX))
            peer.setblocking(False)
            try:
                peer.connect(path)
            except BlockingIOError:
                break
        with pytest.raises(VfioError, match="another process serves it"):
            Listener(path)


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(VfioError, match="at most 107 bytes") as caught:
        Listener(str(tmp_path / ("x" * 110)))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_of_two_starts_at_once_one_wins(tmp_path: Path) -> None:
    """Over a socket that was left behind. Whoever connects reaches the winner."""
    path = str(tmp_path / "socket")
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
        won: list[Listener] = []
        lost: list[VfioError] = []
        gate = threading.Barrier(4)

        def start(won: list[Listener] = won, lost: list[VfioError] = lost, gate: threading.Barrier = gate) -> None:
            gate.wait()
            try:
                won.append(Listener(path))
            except VfioError as error:
                lost.append(error)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 3)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            connection = won[0].accept()
            assert connection is not None
            connection.close()
        won[0].close()
        assert [*tmp_path.iterdir()] == []


def test_an_end_beside_a_start_removes_only_its_own(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = Listener(str(path))
    path.unlink()
    second = Listener(str(path))
    first.close()
    assert path.exists()
    second.close()
    assert [*tmp_path.iterdir()] == []


def run_command(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], text=True, **options)  # type: ignore[call-overload,no-any-return]


COMMANDS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "serve": lambda place: (
        *("serve", "--vhost-user", str(place / "mem"), "--region", "64M", "--block-size", "2M"),
        *("--socket", str(place / "control")),
    ),
    "run": lambda place: ("run", "--region", "64M", "--simulate", "1", "--socket", str(place / "control")),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_sigterm_from_the_first_instruction_on_leaves_no_socket(tmp_path: Path, command: str) -> None:
    times = 12 if is_thorough() else 5
    for number in range(times):
        place = tmp_path / str(number)
        place.mkdir()
        process = run_command(*COMMANDS[command](place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # From before Python runs to after the socket is there, which is looked for: no time says where it is.
        deadline = time.monotonic() + (number * 0.05 if number < times - 4 else 30)
        while time.monotonic() < deadline and not [*place.iterdir()]:
            time.sleep(0.0005)
        process.terminate()
        process.wait(30)
        assert [*place.iterdir()] == [], number


@pytest.mark.parametrize("command", COMMANDS)
def test_nobody_who_reads_is_waited_for(tmp_path: Path, command: str) -> None:
    """A pipe that is full before the first line, on both ends of what it says."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    process = run_command(*COMMANDS[command](tmp_path), stdout=writing, stderr=writing)
    try:
        path = tmp_path / "control"
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with ControlClient(path) as client:
            while not client.show(timeout=0.01)[1]:
                assert time.monotonic() < deadline
            for size in range(1, 9):
                client.resize(size << 21)
            client.stop()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)
