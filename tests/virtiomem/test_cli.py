"""The virtiomem command as a person sees it."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest

from pyvfio.kernel import huge_pages
from tests.support.schemas import checked
from virtiomem.cli import main

SMALL = ["--size", "64M", "--plug", "16M"]


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_demo_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("kernel   simulated")
    assert any(line.startswith("plug     100 MiB: 50 blocks, 50 MAP_DMA calls") for line in lines)
    assert any("██████▎" in line and "0x100000000 … 0x140000000" in line for line in lines)
    assert lines[-1].startswith("result   50 maps and 1 unmap in each of 2 address spaces")


@pytest.mark.parametrize("memory", ["anon", "thp", "memfd"])
def test_demo_as_data(capsys: pytest.CaptureFixture[str], memory: str) -> None:
    assert main(["demo", "--json", "--memory", memory, *SMALL]) == 0
    result = json.loads(capsys.readouterr().out)
    checked("virtiomem-demo", result)
    assert {key: result[key] for key in ("kernel", "memory_kind", "map_calls", "unmap_calls", "faults_stopped")} == {
        "kernel": "simulated",
        "memory_kind": memory,
        "map_calls": 8,
        "unmap_calls": 1,
        "faults_stopped": 2,
    }
    assert result["plugged_bytes"] == 16 << 20
    assert result["block_size"] == 2 << 20
    assert result["dma_verified_bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--block-size", "3M"], "0x40_0000 would fit"),
        (["--block-size", "64K"], "0x10_0000 would fit"),
        (["--size", "63M"], "0x400_0000 would fit|0x3e0_0000 would fit"),
        (["--size", "1M"], "region size"),
        (["--size", "4097"], "multiple of the page size"),
        (["--plug", "128M"], "more than the region"),
        (["--memory", "anon", "--page-size", "2M"], "anon has no huge pages"),
        (["--memory", "hugetlb", "--page-size", "3M"], "not a size of huge pages"),
        (["--device", "eth0"], "not an address"),
        (["--device", "0000:ff:1f.7"], "no such device"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], what: str
) -> None:
    before = open_files()
    assert main(["demo", *SMALL, *arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert any(part in error for part in what.split("|")), error
    assert open_files() == before


def test_missing_huge_pages_say_how_to_get_them(capsys: pytest.CaptureFixture[str]) -> None:
    pool = huge_pages(2 << 20)
    size = str((pool.free + 8) * (2 << 20))
    assert main(["demo", "--memory", "hugetlb", "--size", size, "--plug", size]) == 1
    assert "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["2X", "", "-1", "1.5G"])
def test_a_size_that_is_none(capsys: pytest.CaptureFixture[str], size: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", f"--size={size}"])
    assert caught.value.code == 2
    assert "is not a size" in capsys.readouterr().err


HOST = ["--mappings", "65535", "--memlock", "unlimited", "--host-memory", "unlimited", "--no-measure"]


@pytest.mark.parametrize(
    ("arguments", "fits", "block_size", "fitting"),
    [
        (["--region", "256G", "--block-size", "2M"], False, 2 << 20, 8 << 20),
        (["--region", "256G", "--block-size", "4M"], False, 4 << 20, 8 << 20),
        (["--region", "256G"], True, 8 << 20, 8 << 20),
        (["--region", "1T", "--mappings", "unlimited"], True, 2 << 20, 2 << 20),
        (["--region", "1G", "--memlock", "1G"], True, 2 << 20, 2 << 20),
        (["--region", "1G", "--memlock", "1G", "--devices", "2"], False, 2 << 20, 2 << 20),
        (["--region", "1G", "--plugged", "512M", "--memlock", "1G", "--devices", "2"], True, 2 << 20, 2 << 20),
        (["--region", "1G", "--memory", "hugetlb", "--huge-pages", "512"], True, 2 << 20, 2 << 20),
        (["--region", "1G", "--memory", "hugetlb", "--huge-pages", "511"], False, 2 << 20, 2 << 20),
        (["--region", "2G", "--memory", "hugetlb:1G", "--huge-pages", "2"], True, 1 << 30, 1 << 30),
        (["--region", "4M", "--mappings", "1", "--other-mappings", "1"], False, 2 << 20, None),
    ],
)
def test_plan(
    capsys: pytest.CaptureFixture[str], arguments: list[str], fits: bool, block_size: int, fitting: int | None
) -> None:
    assert main(["plan", "--json", *HOST, *arguments]) == (0 if fits else 1)
    planned = json.loads(capsys.readouterr().out)
    checked("virtiomem-plan", planned)
    assert (planned["fits"], planned["block_size"], planned["fitting_block_size"]) == (fits, block_size, fitting)
    assert all(row["fix"] for row in planned["limits"] if not row["fits"])
    assert main(["plan", *HOST, *arguments]) == (0 if fits else 1)
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == f"  => {planned['conclusion']}"
    assert ("FAIL" in text) != fits


def test_plan_measures_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--region", "64M", *HOST[:6]]
    assert main([*arguments, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["populate_seconds"] == pytest.approx(planned["plugged_size"] / planned["populate_rate"], rel=0.01)
    assert main(arguments) == 0
    assert "to populate all of it" in capsys.readouterr().out


@pytest.mark.parametrize("memory", ["paper", "anon:2M", "hugetlb:x", "hugetlb:"])
def test_plan_refuses_memory_that_is_none(capsys: pytest.CaptureFixture[str], memory: str) -> None:
    if memory == "hugetlb:":
        assert main(["plan", "--region", "2M", "--memory", memory, "--no-measure", "--huge-pages", "1"]) == 0
        return
    with pytest.raises(SystemExit) as caught:
        main(["plan", "--region", "2M", "--memory", memory])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_replay(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    init = {"op": "init", "block_size": 2 << 20, "addr": 1 << 32, "region_size": 1 << 30, "requested_size": 4 << 20}
    plug = bytes.fromhex("0000000000000000") + (1 << 32).to_bytes(8, "little") + (2).to_bytes(8, "little")
    trace.write_text(f"{json.dumps(init)}\n{json.dumps({'op': 'request', 'hex': plug.hex()})}\n")
    assert main(["replay", "--json", str(trace)]) == 0
    _, answer = [checked("virtiomem-replay", json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    assert isinstance(answer, dict)
    assert answer["response"] == bytes(10).hex()
    assert answer["dma"] == [[0, "map", 1 << 32, 2 << 20], [0, "map", (1 << 32) + (2 << 20), 2 << 20]]
    assert main(["replay", str(trace)]) == 0


def test_a_replay_says_in_its_answers_what_the_device_would_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    init = {"op": "init", "block_size": 1 << 20, "addr": 1 << 32, "region_size": 1 << 30, "requested_size": 1 << 30}
    lines = [init, {"op": "request", "hex": "09"}, {"op": "device_reset"}, {"op": "request", "hex": "09"}]
    trace.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert main(["replay", str(trace)]) == 0
    assert capsys.readouterr().out.count("no answer") == 2
    assert caplog.records == []


@pytest.mark.parametrize("text", ["", "not json\n", '{"op":"request","hex":"00"}\n'])
def test_a_trace_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    trace = tmp_path / "trace"
    trace.write_text(text)
    status = main(["replay", str(trace)])
    assert status == (1 if text else status)
    assert capsys.readouterr().err.count("\n") <= 1
