"""virtiomem add, remove, spaces and reset, and serve and run with devices of an iommufd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.schemas import checked
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS
from tests.support.vhost_user.process import serving
from tests.support.virtiomem.servers import Guest, Running, blocks, held, running
from virtiomem import ResponseType
from virtiomem.cli import main
from virtiomem.control import ControlClient

DEVICE = "0000:00:03.0"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as running_:
        yield running_


def test_what_is_added_and_removed_is_said(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--socket", str(server.path)]

    def says(*arguments: str) -> str:
        assert main([*arguments, *there]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    def data(*arguments: str) -> object:
        return checked(f"virtiomem-{arguments[0]}", json.loads(says(*arguments, "--json")))

    assert says("spaces") == "no address spaces: what is plugged is mapped nowhere\n"
    assert says("add", "--vhost-user", f"{server.directory}/one,name=one") == (
        f"one: 32 MiB at {REGION_ADDRESS:#x}, blocks of 2 MiB, for a front end at {server.directory}/one\n"
    )
    assert says("add", "--device", DEVICE) == f"{DEVICE}: container, {DEVICE}; 0 mappings, 65535 left\n"
    assert says("spaces") == f"{DEVICE}: container, {DEVICE}; 0 mappings, 65535 left\n"
    data("spaces")
    assert says("remove", "--space", DEVICE) == f"{DEVICE}: removed\n"
    assert says("add", "--device", DEVICE, "--iommufd", "--space", "near").startswith("near: IOAS ")
    data("remove", "--space", "near")
    data("add", "--device", DEVICE, "--iommufd")
    data("add", "--vhost-user", f"{server.directory}/two")
    data("reset", "vm0-0", "--yes")
    assert says("reset", "one", "--yes") == "one: 0 bytes were plugged, and all memory is given back\n"
    assert says("remove", "--device", "one") == "one: removed\n"
    data("remove", "--device", "vm0-0")


def test_a_descriptor_that_the_command_was_started_with_is_handed_on(
    server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = server.guest()
    assert guest.plug(1) is ResponseType.ACK
    container, _ = server.monitor.container()
    fd = server.monitor.lend(container)
    assert main(["add", "--container-fd", str(fd), "--space", "vm", "--socket", str(server.path)]) == 0
    assert capsys.readouterr().out.startswith("vm: container, lent by another process; 1 mapping, ")
    assert blocks(1)[0] in held(server.monitor.kernel, container)
    iommufd = server.monitor.iommufd()
    arguments = ["add", "--iommufd-fd", str(server.monitor.lend(iommufd)), "--socket", str(server.path), "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    checked("virtiomem-add", result)
    assert isinstance(result["space"]["ioas_id"], int)


@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        (["add", "--vhost-user", "one", "--iommufd"], "--vhost-user is a device"),
        (["add", "--vhost-user", "one", "--space", "x"], "--vhost-user is a device"),
        (["add", "--device", DEVICE, "--ioas", "3"], "--iommufd-fd"),
        (["add", "--container-fd", "3", "--iommufd"], "goes with --device"),
        (["add", "--container-fd", "99999"], "Bad file descriptor"),
        (["add", "--device", "0000:ff:1f.7"], "0000:ff:1f.7"),
        (["remove", "--space", "x"], "there is none"),
        (["remove", "--device", "x"], "there is none"),
        (["reset", "x"], "there is none"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    server: Running, capsys: pytest.CaptureFixture[str], arguments: list[str], meaning: str
) -> None:
    assert main([*arguments, "--socket", str(server.path)]) == 1
    assert meaning in capsys.readouterr().err


@pytest.mark.parametrize("words", [["add"], ["remove"], ["remove", "--space", "a", "--device", "b"]])
def test_a_command_line_without_sense_is_no_request(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert f"See virtiomem {words[0]} --help" in capsys.readouterr().err


def test_a_server_may_begin_with_nothing_and_be_given_all_it_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, "--region", "32M", "--block-size", "2M", "--requested", "32M", "--no-state") as process:
        control = str(tmp_path / "control")
        assert main(["add", "--vhost-user", "one", "--socket", control]) == 0
        assert "vm0-0: 32 MiB at 0x100000000" in capsys.readouterr().out
        guest = Guest(str(tmp_path / "one"))
        assert guest.plug(0, 4) is ResponseType.ACK
        with ControlClient(tmp_path / "control") as client:
            assert client.show()[1][0].plugged_size == 4 * BLOCK
            assert main(["remove", "--device", "vm0-0", "--socket", control]) == 1
            assert "--yes" in capsys.readouterr().err
            assert main(["remove", "--device", "vm0-0", "--yes", "--socket", control]) == 0
            client.stop()
        guest.front_end.close()
        assert process.wait(60) == 0


def test_devices_of_an_iommufd_on_the_simulated_kernel(tmp_path: Path) -> None:
    """That of run; where a host has none, what is missing is said."""
    from tests.support.virtiomem.managers import BLOCK as SIZE
    from tests.support.virtiomem.managers import running as managed

    with managed(tmp_path / "vm0.sock", iommufd=True, exercise=True) as run, ControlClient(run.path) as client:
        status = run.reach(client, 4 * SIZE)
        assert [space.name.split()[0] for space in status.address_spaces] == ["IOAS", "IOAS"]
        assert [space.mappings_left for space in status.address_spaces] == [None, None]
        assert [space.mappings for space in status.address_spaces] == [5, 4]


def test_a_host_without_iommufd_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyvfio.sim import SimKernel

    monkeypatch.setattr("virtiomem.cli.serve.LinuxKernel", lambda: SimKernel(edu_devices=1, iommufd=False))
    arguments = ["serve", "--vhost-user", str(tmp_path / "one"), "--region", "32M", "--device", DEVICE, "--iommufd"]
    assert main([*arguments, "--no-state", "--socket", str(tmp_path / "control")]) == 1
    assert "iommufd" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []
