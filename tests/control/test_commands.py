"""The commands that talk to a running manager, as a person sees them."""

from __future__ import annotations

import json
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.schemas import checked
from tests.support.virtiomem.managers import ADDRESS, BLOCK, MIB, Running, running, status
from virtiomem import Request, RequestType, Run
from virtiomem.cli import main
from virtiomem.cli.migrate.bitmap_file import BitmapFile
from virtiomem.control import ControlClient, DeviceStatus
from virtiomem.draw import block_map_svg
from virtiomem.runs import union


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


def lines(text: str) -> list[dict[str, object]]:
    parsed = [json.loads(line) for line in text.splitlines()]
    for line in parsed:
        checked("virtiomem-migrate", line)
    return parsed


def test_a_migration_by_commands(capsys: pytest.CaptureFixture[str], manager: Running, tmp_path: Path) -> None:
    run(capsys, manager, "resize", "4M")
    (begun,) = lines(run(capsys, manager, "migrate", "begin", "--keep", "600", "--json"))
    assert begun == {"event": "begun", "device": "vm0", "page_size": 4096, "region_size": 64 * MIB, "unlogged": []}
    assert "  migrating: no block changes" in run(capsys, manager, "show")
    text = run(capsys, manager, "migrate", "dirty")
    assert text.splitlines() == ["  0x000000000000      4 MiB", "4 MiB dirty, in 1 run"]
    assert lines(run(capsys, manager, "migrate", "dirty", "--json")) == [
        {"event": "dirty", "offset": 0, "size": 4 * MIB},
        {"event": "read", "page_size": 4096, "runs": 1, "dirty_bytes": 4 * MIB},
    ]
    bitmap, state = tmp_path / "bitmap", tmp_path / "state"
    text = run(capsys, manager, "migrate", "dirty", "--bitmap", str(bitmap))
    assert text == f"4 MiB dirty, in 1 run, in {bitmap}: a bit for each 4 KiB\n"
    assert bitmap.read_bytes() == b"\xff" * 128 + bytes(2048 - 128)
    assert f"{state}: the state of the device" in run(capsys, manager, "migrate", "save", str(state))
    assert run(capsys, manager, "migrate", "cancel") == "vm0: blocks may change again, and nothing is logged any more\n"
    with running(tmp_path / "two.sock") as other:
        text = run(capsys, other, "migrate", "load", str(state))
        assert text == "vm0: 4 MiB plugged, as they were; their content is to come\n"
        run(capsys, other, "resize", "0")
        (done,) = lines(run(capsys, other, "migrate", "load", str(state), "--json"))
        assert done == {"event": "loaded", "device": "vm0", "plugged_size": 4 * MIB}


def test_a_migration_stays_as_long_as_its_command(
    capsys: pytest.CaptureFixture[str], manager: Running, client: ControlClient
) -> None:
    """It ends when somebody cancels it, too."""

    def cancel() -> None:
        revision, (status,) = client.show()
        while not status.migrating:
            revision, (status,) = client.show(after=revision, timeout=30)
        client.cancel_migration()

    thread = threading.Thread(target=cancel)
    thread.start()
    begun, ended = lines(run(capsys, manager, "migrate", "begin", "--json"))
    thread.join()
    assert (begun["event"], ended) == ("begun", {"event": "ended", "device": "vm0"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["save"], "migrate save takes a file for the state"),
        (["dirty", "x"], "migrate dirty takes no file for the state"),
        (["cancel", "--keep", "5"], "--keep is an option of migrate begin, not of cancel"),
        (["begin", "--bitmap", "x"], "--bitmap is an option of migrate dirty, not of begin"),
        (["dirty"], "it does not migrate. Begin that: virtiomem migrate begin"),
        (["cancel"], "it does not migrate"),
        (["save", "x"], "it does not migrate"),
        (["load", "/nowhere/x"], "/nowhere/x is not there"),
        (["load", "/dev/zero"], "/dev/zero is no state of a device"),
        (["load", "/dev/null"], "a state has from 1 to"),
    ],
)
def test_a_migration_that_cannot_be(
    capsys: pytest.CaptureFixture[str], manager: Running, words: list[str], said: str
) -> None:
    assert main(["migrate", *words, "--socket", str(manager.path)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_no_page_is_read_without_room_for_its_bit(
    capsys: pytest.CaptureFixture[str], manager: Running, client: ControlClient
) -> None:
    manager.reach(client, 4 * MIB)
    client.begin_migration()
    full = Path("/dev/full")
    assert main(["migrate", "dirty", "--bitmap", str(full), "--socket", str(manager.path)]) == 1
    assert "there is no room for the bitmap, and no page was read" in capsys.readouterr().err
    assert list(client.dirty_pages()) == [Run(0, 4 * MIB)]


@given(st.sets(st.integers(0, 199)))
def test_a_bitmap_file_has_a_bit_for_each_page(pages: set[int]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "bitmap"
        with BitmapFile(path, 4096, 200 * 4096) as bitmap:
            for run_ in union(Run(page, 1) for page in pages):
                bitmap.add(Run(run_.start * 4096, run_.size * 4096))
        bits = int.from_bytes(path.read_bytes(), "little")
        assert len(path.read_bytes()) == 25
    assert {page for page in range(200) if bits >> page & 1} == pages
