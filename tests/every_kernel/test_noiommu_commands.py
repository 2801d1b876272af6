"""What the commands say of devices without an IOMMU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvfio import Kernel
from pyvfio.cli import main
from pyvfio.drivers.edu import edu_addresses
from pyvfio.host import Host, unbind
from tests.support.kernels.hardware import machine_without_iommu
from tests.support.schemas import checked

pytestmark = pytest.mark.needs("noiommu")

Run = Callable[..., str]


@pytest.fixture
def kernel(kernel_name: str) -> Iterator[Kernel]:
    with machine_without_iommu(kernel_name) as kernel:
        yield kernel


@pytest.fixture
def run(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> Run:
    """What a command prints."""

    def run(*arguments: str, statuses: tuple[int, ...] = (0,)) -> str:
        assert main(list(arguments), Host(kernel)) in statuses
        return capsys.readouterr().out

    return run


@pytest.fixture
def address(kernel: Kernel) -> str:
    return edu_addresses(kernel)[0]


def data(run: Run, command: str, *arguments: str, statuses: tuple[int, ...] = (0,)) -> Any:
    return checked(f"pyvfio-{command}", json.loads(run(command, "--json", *arguments, statuses=statuses)))


def test_list_names_its_nodes(run: Run, address: str) -> None:
    (entry,) = data(run, "list", address)
    assert (entry["noiommu"], entry["viable"]) == (True, True)
    assert entry["group_node"] == f"/dev/vfio/noiommu-{entry['group']}"
    assert entry["device_node"].startswith("/dev/vfio/devices/noiommu-vfio")
    text = run("list", address)
    assert "yes, without IOMMU" in text
    assert "noiommu-vfio" in text


def test_show_opens_it(run: Run, address: str) -> None:
    shown = data(run, "show", "--open", address)
    assert shown["noiommu"]
    assert {region["name"] for region in shown["vfio"]["regions"]} >= {"BAR0", "CONFIG"}


def test_doctor_warns_of_it(run: Run, address: str) -> None:
    # It finds no IOMMU, which it calls a failure.
    checks = data(run, "doctor", statuses=(1,))["checks"]
    by_name = {check["name"]: check for check in checks}
    assert by_name["iommu"]["status"] == "FAIL"
    assert by_name["noiommu"]["status"] == "WARN"
    assert address in by_name["noiommu"]["found"]
    assert "tainted" in by_name["noiommu"]["found"]
    assert any("noiommu-" in check["found"] for check in checks if check["name"] == "nodes")


def test_bind_says_what_it_has_done(run: Run, address: str, kernel: Kernel, tmp_path: Path) -> None:
    unbind(kernel, address)
    text = run("bind", address, "--undo-file", str(tmp_path / "undo"))
    assert "/dev/vfio/noiommu-" in text
    assert "UNSAFE" in text
