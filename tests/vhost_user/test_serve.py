"""virtiomem serve, as a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.support.schemas import checked
from tests.support.vhost_user.front_end import BLOCK, MIB, Elsewhere, FrontEnd, Request, table, u64
from tests.support.vhost_user.process import serving
from virtiomem.cli import main
from virtiomem.control import ControlClient
from virtiomem.device import Feature

GIB = 1 << 30


def requested(path: Path) -> int:
    """What a front end reads there."""
    front_end = FrontEnd(Elsewhere(str(path)))
    try:
        return int.from_bytes(front_end.config(8, 48), "little")
    finally:
        front_end.close()


def test_two_devices_for_two_front_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    common = ["--region", "1G", "--block-size", "2M", "--name", "vm7"]
    with serving(
        tmp_path, *common, "--vhost-user", str(one), "--vhost-user", f"{two},requested=4M,name=far,node=1,ring=split"
    ) as process:
        assert [stat.S_IMODE(path.stat().st_mode) for path in (one, two, tmp_path / "control")] == [0o600] * 3
        assert (requested(one), requested(two)) == (0, 4 * MIB)
        with ControlClient(tmp_path / "control") as client:
            client.resize(2 * BLOCK, "vm7-0")
            _, devices = client.show()
            assert [(device.name, device.address, device.node_id) for device in devices] == [
                ("vm7-0", 4 * GIB, None),
                ("far", 5 * GIB, 1),
            ]
            assert devices[0].guest == "vhost-user: no front end"
            assert main(["show", "--device", "far", "--socket", str(tmp_path / "control")]) == 0
            assert "far  vhost-user memory on NUMA node 1, vhost-user: no front end" in capsys.readouterr().out
        assert (requested(one), requested(two)) == (2 * BLOCK, 4 * MIB)
        front_end = FrontEnd(Elsewhere(str(two)))
        assert not front_end.number(Request.GET_FEATURES) & 1 << 34
        # One that breaks the protocol, and goes without a word.
        front_end.send(Request.SET_FEATURES, u64(1 << 63))
        assert front_end.gone()
        front_end.close()
        assert requested(two) == 4 * MIB
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert checked("virtiomem-serve", json.loads(process.stdout.read())) == {
            "event": "stopped",
            "reason": "SIGTERM",
        }
        assert process.wait() == 0
    assert [*tmp_path.iterdir()] == []


def test_suspend_that_keeps_memory_is_offered_by_option(tmp_path: Path) -> None:
    one = str(tmp_path / "one")
    with serving(tmp_path, "--vhost-user", one, "--region", "1G", "--persistent-suspend"):
        front_end = FrontEnd(Elsewhere(one))
        assert front_end.number(Request.GET_FEATURES) & int(Feature.PERSISTENT_SUSPEND)
        front_end.close()


@pytest.mark.parametrize("option", [[], ["--no-state"]], ids=["state", "no state"])
def test_a_socket_that_a_service_manager_has_made_is_served(tmp_path: Path, option: list[str]) -> None:
    path = str(tmp_path / "activated")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        with serving(tmp_path, "--vhost-user", path, "--region", "1G", *option, listening=listening):
            listening.close()
            front_end = FrontEnd(Elsewhere(path))
            assert front_end.number(Request.GET_FEATURES)
            front_end.close()
    assert Path(path).exists()


def test_memory_that_holds_pages_is_taken_by_option(tmp_path: Path) -> None:
    for option, left in ((), b"guest"), (("--discard",), bytes(5)):
        one = str(tmp_path / "one")
        with serving(tmp_path, "--vhost-user", one, "--region", "32M", "--block-size", "2M", *option):
            front_end = FrontEnd(Elsewhere(one))
            front_end.region.bytes[:5] = b"guest"
            front_end.connect()
            assert front_end.acknowledged(Request.SET_MEM_TABLE, *shared(front_end)) is bool(option)
            assert front_end.region.bytes[:5] == left
            front_end.close()


def shared(front_end: FrontEnd) -> tuple[bytes, list[int]]:
    return table(*front_end.regions()), [front_end.ram.fd, front_end.region.fd]


def test_the_stop_command_ends_it(tmp_path: Path) -> None:
    with serving(tmp_path, "--vhost-user", str(tmp_path / "one"), "--region", "1G") as process:
        with ControlClient(tmp_path / "control") as client:
            client.stop()
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        (["--vhost-user", "a"], "how large is the region of a?"),
        (["--vhost-user", "a", "--vhost-user", "a", "--region", "1G"], "a is there twice"),
        (["--vhost-user", "a,name=x", "--vhost-user", "b,name=x", "--region", "1G"], "x is there twice"),
        (
            ["--vhost-user", "a", "--vhost-user", "b,address=4608M", "--region", "1G"],
            "vm0-0 and vm0-1 overlap at 0x120000000",
        ),
        (
            ["--vhost-user", "a", "--vhost-user", "b,address=4G", "--region", "1G", "--block-size", "2M"],
            "fits at address=0x140000000",
        ),
        (["--vhost-user", "a", "--region", "1G", "--address", "0"], "cannot be at address 0"),
        (["--vhost-user", "a,address=0", "--region", "1G"], "cannot be at address 0"),
        (["--vhost-user", "a", "--region", "1G", "--block-size", "2M", "--address", "0x100100000"], "would fit"),
        (["--vhost-user", "a,name=x\ny", "--region", "1G"], "can be printed"),
        (["--vhost-user", "a", "--region", "3M", "--block-size", "2M"], "would fit"),
        (["--vhost-user", "/nowhere/a", "--region", "1G"], "No such file"),
    ],
)
def test_what_does_not_go_together(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    meaning: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--socket", "control", *arguments]) == 1
    assert meaning in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("socket", ["", "a,region", "a,colour=red", "a,region=x", "a,ring=round", "a,node=x"])
def test_sockets_that_make_no_sense(capsys: pytest.CaptureFixture[str], socket: str) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--vhost-user", socket, "--region", "1G"])
    assert "virtiomem serve --help" in capsys.readouterr().err
