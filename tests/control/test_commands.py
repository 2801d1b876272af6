"""The commands that talk to a running manager, as a person sees them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.support.schemas import checked
from tests.support.virtiomem.managers import ADDRESS, BLOCK, MIB, Running, running, status
from virtiomem import Request, RequestType, Run
from virtiomem.cli import main
from virtiomem.control import ControlClient, DeviceStatus
from virtiomem.draw import block_map_svg


def run(capsys: pytest.CaptureFixture[str], manager: Running, *arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main([*arguments, "--socket", str(manager.path)]) == status
    return capsys.readouterr().out


def test_a_session(capsys: pytest.CaptureFixture[str], manager: Running) -> None:
    assert run(capsys, manager, "resize", "10M").startswith("vm0: 10 MiB plugged, in ")
    sizes = "   plugged 10 MiB   requested 10 MiB"
    assert run(capsys, manager, "show").splitlines() == [
        "vm0  anon memory, stand-in: idle",
        f"  total 64 MiB   block 2 MiB   usable 64 MiB{sizes}   mappings 10 in 2 address spaces",
        "  0x100000000-0x1009fffff     10 MiB  plugged",
        "  0x100a00000-0x103ffffff     54 MiB  unplugged",
        "  0x100000000  █████···························",
        "  each cell is a block, 2 MiB; · is usable and unplugged",
    ]
    stats = run(capsys, manager, "stats")
    assert "PLUG     ACK       5" in stats
    assert "REFUSED" not in stats
    manager.manager.device.handle(bytes(Request(RequestType.PLUG, ADDRESS, 1)))
    stats = run(capsys, manager, "stats")
    assert "PLUG     NACK      1" in stats
    assert "REFUSED  REASON          COUNT\nNACK     requested size  1\n" in stats
    assert 'virtiomem_plugged_bytes{device="vm0"} 10485760' in run(capsys, manager, "stats", "--prometheus")
    run(capsys, manager, "resize", "4M")
    data = json.loads(run(capsys, manager, "show", "--json"))
    checked("virtiomem-show", data)
    assert data["devices"][0]["plugged"] == [{"start": ADDRESS, "size": 4 * MIB}]


def test_resize_that_cannot_be(capsys: pytest.CaptureFixture[str], manager: Running) -> None:
    run(capsys, manager, "resize", "3M", status=1)
    main(["resize", "3M", "--socket", str(manager.path)])
    assert "0x40_0000 would fit" in capsys.readouterr().err


def test_a_resize_that_takes_too_long_says_what_it_waits_for(
    capsys: pytest.CaptureFixture[str], manager: Running
) -> None:
    manager.manager.device.migrating = True
    assert main(["resize", "8M", "--timeout", "0.2", "--socket", str(manager.path)]) == 1
    error = capsys.readouterr().err
    assert "0 bytes of 8 MiB" in error
    assert "waiting: plug: migrating" in error
    done = json.loads(run(capsys, manager, "resize", "8M", "--timeout", "0.1", "--json", status=1))
    checked("virtiomem-resize", done)
    assert not done["reached"]
    assert "asked for 6 MiB, 0 bytes plugged so far" in run(capsys, manager, "resize", "6M", "--no-wait")


def test_which_device(capsys: pytest.CaptureFixture[str], manager: Running) -> None:
    assert run(capsys, manager, "resize", "2M", "--device", "vm0")
    run(capsys, manager, "resize", "2M", "--device", "vm9", status=1)
    assert main(["show", "--device", "vm9", "--socket", str(manager.path)]) == 1
    assert "vm0" in capsys.readouterr().err


def test_which_manager(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("virtiomem.control.places.directory", lambda: tmp_path)
    assert main(["show"]) == 1
    assert "virtiomem run starts one" in capsys.readouterr().err
    with running(tmp_path / "one.sock"):
        assert main(["show"]) == 0
        assert main(["show", "--name", "one"]) == 0
        with running(tmp_path / "two.sock"):
            assert main(["show"]) == 1
            assert "one, two" in capsys.readouterr().err
            assert main(["show", "--name", "two"]) == 0


SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("shown", "rows"),
    [
        (status(64 * MIB, BLOCK), 1),
        (status(1 << 30, BLOCK, Run(ADDRESS, 100 * MIB), Run(ADDRESS + 200 * MIB, 2 * MIB)), 8),
        (status(1 << 30, BLOCK, Run(ADDRESS, 1 << 30), usable_size=0), 8),
        (status(1 << 40, 16 * MIB, Run(ADDRESS, 1 << 40)), 32),
        (status(6 * MIB, BLOCK, Run(ADDRESS, 2 * MIB)), 1),
    ],
)
def test_the_picture(shown: DeviceStatus, rows: int) -> None:
    root = ElementTree.fromstring(block_map_svg(shown))
    addresses = [text.text for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
    assert len(addresses) == rows
    assert addresses[0] == "0x100000000"
    step = 11
    plugged = [rect for rect in root.iter(f"{SVG}rect") if rect.get("fill") == "#2e8b57"]
    cell_size = -(-shown.region_size // shown.block_size // (64 * 32)) * shown.block_size
    area = sum(float(rect.get("width", "0")) for rect in plugged) / step * cell_size
    assert area == pytest.approx(shown.plugged_size + cell_size * 10 / step, rel=0.01)  # and one cell of the legend
    assert "&lt;0&gt;" in block_map_svg(shown)


def test_a_file_with_the_picture(capsys: pytest.CaptureFixture[str], manager: Running, tmp_path: Path) -> None:
    with ControlClient(manager.path) as client:
        manager.reach(client, 8 * MIB)
    picture = tmp_path / "map.svg"
    run(capsys, manager, "show", "--svg", str(picture))
    assert ElementTree.parse(picture).getroot().tag == f"{SVG}svg"
