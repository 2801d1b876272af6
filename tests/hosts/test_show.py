"""What show tells of a device without touching it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyvfio.host.inspect import what_opening_does
from tests.support.hosts import FakeHost
from tests.support.schemas import checked

CARD = "0000:03:00.0"
PLACE = f"/sys/devices/pci0000:00/{CARD}"
RESOURCES = """0x00000000fe400000 0x00000000fe403fff 0x0000000000140204
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000f0000000 0x00000000f7ffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x000000000000c000 0x000000000000c01f 0x0000000000040101
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000fe500000 0x00000000fe50ffff 0x0000000000046200
"""


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    """A card with MSI-X and a serial number, bound to VFIO."""
    fake_host.pci(CARD, "8086:1521", 0x020000, driver="vfio-pci", group=12)
    fake_host.file(f"{PLACE}/resource", RESOURCES)
    config = bytearray(4096)
    config[0:4] = bytes.fromhex("86802115")
    config[6], config[0x34] = 0x10, 0x40
    config[0x40:0x4C] = bytes.fromhex("110009800320000003300000")
    config[0x100:0x10C] = bytes.fromhex("03000100010203040506070a")
    fake_host.at(f"{PLACE}/config").write_bytes(config)
    return fake_host


def data(host: FakeHost) -> Any:
    return checked("pyvfio-show", json.loads(host.run("show", "--json", CARD).out))


def test_it_is_not_opened_unless_told_to(host: FakeHost) -> None:
    text = host.run("show", CARD).out
    assert "not opened; --open opens it" in text
    assert data(host)["vfio"] is None
    host.file(f"{PLACE}/reset_method", "flr bus\n")
    assert "not opened; --open opens it, which resets it" in host.run("show", CARD).out


def test_what_resets_others_too_is_no_reset_of_its_own(host: FakeHost) -> None:
    """The kernel lists the reset of a bus for the function that it finds first, and refuses it when there are two."""
    twin = "0000:03:00.1"
    host.pci(twin, "8086:1521", 0x020000, group=12)
    host.file(f"{PLACE}/reset_method", "bus\n")
    untouched = f"{CARD} has no reset of its own: opening it leaves it as it is, but for DMA, which is off"
    assert what_opening_does(host.kernel, CARD) == untouched
    assert "not opened; --open opens it, and shows" in host.run("show", CARD).out
    host.driver("vfio-pci")
    host.give(twin, "vfio-pci")
    for one, other in ((CARD, twin), (twin, CARD)):
        said = what_opening_does(host.kernel, one)
        assert said.startswith(f"{one} has no reset of its own")
        assert said.endswith(f"and closing it resets it together with {other} (bus), if nobody has them open")
    host.file(f"{PLACE}/reset_method", "flr bus\n")
    assert what_opening_does(host.kernel, CARD) == f"opening {CARD} resets it (flr), and closing it does again"


def test_what_cannot_be_bound_is_not_recommended(fake_host: FakeHost) -> None:
    fake_host.pci("0000:00:1c.0", "8086:9d10", 0x060400, header_type=1)
    fake_host.pci("0000:00:02.0")
    for address, reason in (("00:1c.0", "it is a bridge"), ("00:02.0", "there is no IOMMU behind it")):
        shown = fake_host.run("show", address).out
        assert "bind it to see" not in shown
        assert reason in shown


def test_its_resources_and_capabilities_are_in_sysfs(host: FakeHost) -> None:
    shown = data(host)
    assert [(each["index"], each["kind"], each["size"]) for each in shown["resources"]] == [
        (0, "memory", 16 << 10),
        (2, "memory", 128 << 20),
        (4, "ports", 32),
        (6, "memory", 64 << 10),
    ]
    assert [(each["name"], each["text"]) for each in shown["capabilities"]] == [
        ("MSIX", "Enable+ Masked- Count=10 table BAR3+0x2000 pending BAR3+0x3000"),
        ("DSN", "0a-07-06-05-04-03-02-01"),
    ]
    text = host.run("show", CARD).out
    assert "  resource     2  BAR2         128 MiB  memory 64 bits prefetchable\n" in text
    assert "  resource     6  ROM           64 KiB  memory prefetchable\n" in text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"\x86\x80\x21\x15" + bytes(2) + b"\x10" + bytes(57), "the kernel shows this user the first 64 bytes only"),
        (b"\xff" * 256, "it does not answer: its config space reads all ones"),
    ],
)
def test_what_cannot_be_read_is_said_and_the_rest_is_shown(host: FakeHost, config: bytes, said: str) -> None:
    at = bytearray(config)
    if at[0] == 0x86:
        at[0x34] = 0x40
    host.at(f"{PLACE}/config").write_bytes(at)
    ran = host.run("show", CARD)
    assert ran.status == 0
    assert said in ran.out
    assert "BAR0" in ran.out
    assert said in data(host)["capabilities_unavailable"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"reset_method": "flr bus"}, "flr, bus"),
        ({"reset": ""}, "yes (this kernel does not say how)"),
        ({}, "no method of its own"),
    ],
)
def test_kernels_before_5_15_do_not_say_how_they_reset(host: FakeHost, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        host.file(f"{PLACE}/{name}", text)
    assert f"  reset       {said}\n" in host.run("show", CARD).out
