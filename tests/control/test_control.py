"""The control socket: who may connect, what it answers, and that nobody who connects can break it."""

from __future__ import annotations

import errno
import json
import os
import queue
import socket
import stat
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pyvfio import VfioError
from pyvfio.abi import vfio
from pyvfio.faults import Fault
from tests.support.schemas import checked
from tests.support.virtiomem.fakes import Machine
from tests.support.virtiomem.managers import ADDRESS, BLOCK, MIB, Running, running
from virtiomem import Request, RequestType, Run
from virtiomem.control import ControlClient, ControlRefused, MetricsPort, places
from virtiomem.control.metrics import CONTENT_TYPE
from virtiomem.stand_in.stand_in import StandInGuest


def ask(path: Path, *lines: bytes) -> list[dict[str, object]]:
    """Send lines as they are; every answer until the end."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        peer.sendall(b"".join(lines))
        peer.shutdown(socket.SHUT_WR)
        with peer.makefile("rb") as answers:
            return [json.loads(line) for line in answers]


def test_the_socket_is_its_owners(manager: Running) -> None:
    assert stat.S_IMODE(manager.path.stat().st_mode) == 0o600


def test_others_are_sent_away(manager: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtiomem.control.server._may_connect", lambda _: False)
    with ControlClient(manager.path) as client, pytest.raises(VfioError):
        client.show()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_another_user_is_sent_away_even_if_the_file_lets_him(manager: Running) -> None:
    """SO_PEERCRED is looked at, not only the mode."""
    for directory in (manager.path.parent, *manager.path.parent.parents):
        directory.chmod(directory.stat().st_mode | 0o055)
    manager.path.chmod(0o777)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            os._exit(0 if ask(manager.path, b'{"command":"show"}\n') == [] else 1)
        except ConnectionError:
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_show_and_resize(manager: Running, client: ControlClient) -> None:
    revision, (status,) = client.show()
    assert (status.plugged_size, status.requested_size, status.plugged) == (0, 0, ())
    status = manager.reach(client, 10 * BLOCK)
    assert status.plugged == (Run(ADDRESS, 10 * BLOCK),)
    assert [space.mappings for space in status.address_spaces] == [10, 10]
    assert status.guest == "stand-in: idle"
    assert client.show()[0] > revision
    status = manager.reach(client, 3 * BLOCK)
    assert status.plugged == (Run(ADDRESS, 3 * BLOCK),)
    checked("virtiomem-show", client.request("show"))
    checked("virtiomem-stats", client.request("stats"))


def test_show_waits_for_a_change(client: ControlClient, manager: Running) -> None:
    revision, _ = client.show()
    before = time.monotonic()
    assert client.show(after=revision, timeout=0.05)[0] == revision
    assert time.monotonic() - before >= 0.05
    timer = threading.Timer(0.05, manager.server.changed)
    timer.start()
    assert client.show(after=revision, timeout=30.0)[0] > revision
    timer.join()


@pytest.mark.parametrize("size", [1, BLOCK + 1, 64 * MIB + BLOCK, -BLOCK])
def test_a_size_that_cannot_be_is_refused_with_the_devices_words(client: ControlClient, size: int) -> None:
    with pytest.raises(ControlRefused, match="would fit") as caught:
        client.resize(size)
    assert caught.value.errno == errno.EINVAL
    assert client.show()[1][0].requested_size == 0


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"nonsense\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"[" * 60_000 + b"\n", "not JSON"),
        (b'{"requested_size":' + b"9" * 5000 + b"}\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b'{"command":"show"', "does not end"),
        (b'{"x":"' + b"y" * (65 << 10) + b'"}\n', "too long"),
    ],
)
def test_what_is_no_request_ends_the_conversation(manager: Running, line: bytes, error: str) -> None:
    try:
        (answer,) = ask(manager.path, line)
    except ConnectionResetError:
        assert error == "too long"  # what it did not read goes unanswered
    else:
        assert not answer["ok"]
        assert answer["errno"] == "EPROTO"
        assert error in str(answer["error"])
    assert ask(manager.path, b'{"command":"show"}\n')[0]["ok"]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({}, "no command None"),
        ({"command": "reboot"}, "no command 'reboot'"),
        ({"command": "resize"}, "requested_size must be a whole number"),
        ({"command": "resize", "requested_size": True}, "must be a whole number"),
        ({"command": "resize", "requested_size": "2M"}, "must be a whole number"),
        ({"command": "resize", "requested_size": 0, "device": "vm7"}, "device must be one of vm0"),
        ({"command": "show", "after": 1.5}, "after must be a whole number"),
        ({"command": "show", "timeout": -1}, "timeout must be seconds"),
    ],
)
def test_a_wrong_request_is_refused_and_the_next_answered(
    manager: Running, request_: dict[str, object], error: str
) -> None:
    line = json.dumps(request_).encode() + b"\n"
    first, second = ask(manager.path, line, b'{"command":"show"}\n')
    assert not first["ok"]
    assert error in str(first["error"])
    assert second["ok"]


def test_many_clients_and_those_that_leave_without_a_word(manager: Running) -> None:
    peers = [socket.socket(socket.AF_UNIX) for _ in range(70)]
    for peer in peers:
        peer.connect(str(manager.path))
    peers[0].sendall(b'{"comm')
    for peer in peers:
        peer.close()
    for _ in range(1000):  # until the threads of those who left have noticed
        with ControlClient(manager.path) as client:
            try:
                assert client.show()[1]
                return
            except VfioError:
                time.sleep(0.01)
    raise AssertionError("nobody is let in any more")


def test_stop_returns_when_everything_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "vm0.sock"
    stopped = threading.Event()
    with running(path) as run:
        with ControlClient(path) as client:
            run.reach(client, 8 * BLOCK)
            assert len(run.kernel.containers) == 2

        def stop() -> None:
            with ControlClient(path) as other:
                other.stop()
            assert run.kernel.containers == []
            assert run.kernel.locked_bytes == 0
            stopped.set()

        thread = threading.Thread(target=stop)
        thread.start()
        while not run.stops:
            time.sleep(0.001)
        assert not stopped.wait(0.05)
    thread.join()
    assert stopped.is_set()
    assert not path.exists()
    with pytest.raises(VfioError, match="virtiomem run"):
        ControlClient(path)


def test_nothing_is_left_when_the_manager_cannot_start(tmp_path: Path) -> None:
    before, threads = sorted(os.listdir("/proc/self/fd")), threading.active_count()
    with pytest.raises(ValueError, match="would fit"), running(tmp_path / "sock", region_size=63 * MIB):
        pass
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads


def test_metrics(manager: Running, client: ControlClient) -> None:
    manager.reach(client, 4 * BLOCK)
    text = str(client.request("metrics")["text"])
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples['virtiomem_plugged_bytes{device="vm0"}'] == str(4 * BLOCK)
    assert samples['virtiomem_requests_total{device="vm0",request="PLUG",response="ACK"}'] == "4"
    assert samples['virtiomem_mappings{device="vm0",space="container of group 3"}'] == "4"
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    assert all(any(name.startswith(family) for family in families) for name in samples)


def test_the_metrics_port(manager: Running) -> None:
    with MetricsPort(0, manager.server.metrics) as port:
        assert port.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(port.url) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert answer.read().decode().startswith("# HELP virtiomem_region_bytes")
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            urllib.request.urlopen(port.url.replace("/metrics", "/"))
        refused.value.close()
        with pytest.raises(VfioError, match="another port"):
            MetricsPort(int(port.url.split(":")[2].split("/")[0]), str)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(port.url)


def test_the_directory_must_be_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() or 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("virtiomem.control.places.os.geteuid", lambda: tmp_path.stat().st_uid)
    monkeypatch.setattr("virtiomem.control.places.directory", lambda: tmp_path / "virtiomem")
    places.make_directory()
    assert stat.S_IMODE((tmp_path / "virtiomem").stat().st_mode) == 0o700
    assert places.running() == []
    (tmp_path / "virtiomem").chmod(0o750)
    with pytest.raises(VfioError, match="chmod 700"):
        places.make_directory()
    (tmp_path / "virtiomem").rmdir()
    (tmp_path / "virtiomem").symlink_to(tmp_path)
    with pytest.raises(VfioError, match="not this user's alone"):
        places.make_directory()


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden"])
def test_a_name_that_is_no_files(name: str) -> None:
    with pytest.raises(VfioError, match="name "):
        places.socket_path(name)


def test_a_busy_guest_says_why_and_gets_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mapping of one block is refused; the stand-in tries again later."""
    monkeypatch.setattr("virtiomem.stand_in.stand_in.FIRST_RETRY", 0.05)
    refused = Fault(nth=5, name="ioctl", request=vfio.VFIO_IOMMU_MAP_DMA, errno=errno.ENOMEM)
    with running(tmp_path / "sock", refused, devices=1) as run, ControlClient(run.path) as client:
        client.resize(8 * BLOCK)
        waited = ""
        revision, (status,) = client.show()
        while status.plugged_size < 8 * BLOCK:
            waited = status.waiting_for or waited
            revision, (status,) = client.show(after=revision, timeout=5.0)
        assert "no memory left to pin" in waited
        assert status.waiting_for is None
        assert 'virtiomem_refusals_total{device="vm0",response="BUSY",reason="no memory"} 1\n' in run.server.metrics()


def test_every_state_of_the_stand_in_is_told() -> None:
    """Else who watches sees it plugging for as long as nothing else changes."""
    machine = Machine(requested=0)
    told: queue.Queue[str] = queue.Queue()
    with StandInGuest(machine.device, lambda: told.put(guest.state)) as guest:
        machine.device.resize(3 * BLOCK)
        guest.config_changed()
        assert told.get(timeout=10) == "stand-in: plugs up to 6 MiB"
        assert told.get(timeout=10) == "stand-in: idle"
        machine.device.resize(0)
        guest.config_changed()
        assert told.get(timeout=10) == "stand-in: unplugs down to 0 bytes"
        assert told.get(timeout=10) == "stand-in: idle"


def test_refusals_are_in_statistics_and_metrics(tmp_path: Path) -> None:
    with running(tmp_path / "sock", devices=1) as run, ControlClient(run.path) as client:
        device = run.manager.device
        config = device.config
        for count in (0, 1, 1):
            device.handle(bytes(Request(RequestType.UNPLUG, config.addr, count)))
        result = checked("virtiomem-stats", client.request("stats"))
        assert isinstance(result, dict)
        assert result["devices"][0]["refusals"] == [
            {"response": "ERROR", "reason": "no blocks", "count": 1},
            {"response": "ERROR", "reason": "not usable", "count": 2},
        ]
        metrics = run.server.metrics()
        assert 'virtiomem_refusals_total{device="vm0",response="ERROR",reason="no blocks"} 1\n' in metrics
        assert 'virtiomem_requests_total{device="vm0",request="UNPLUG",response="ERROR"} 3\n' in metrics


def test_an_exercise_survives_resizes(tmp_path: Path) -> None:
    with running(tmp_path / "sock", exercise=True) as run, ControlClient(run.path) as client:
        dma_counts = run.manager.managed.dma_counts
        assert dma_counts is not None
        for size in (16, 2, 20, 0, 8):
            before = dma_counts()["verified_bytes"]
            run.reach(client, size * BLOCK)
            # Of what is plugged now something is read, however busy the machine is.
            deadline = time.monotonic() + 30
            while size and dma_counts()["verified_bytes"] == before and time.monotonic() < deadline:
                time.sleep(0.01)
        counts = dma_counts()
        assert counts["transfers"] != 0
        assert counts["verified_bytes"] != 0
        assert (counts["mismatches"], counts["failure"]) == (0, None)
