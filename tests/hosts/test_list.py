"""pyvfio list, as people read it."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import pytest

from pyvfio.host.names.hwdb import CompiledHwdb, pci_key, properties_of_text
from pyvfio.host.names.pci_ids import short_vendor
from tests.support.hosts import FakeHost
from tests.support.schemas import checked

IDS = """#
8086  Intel Corporation
\t1521  I350 Gigabit Network Connection
10de  NVIDIA Corporation
\t2204  GA102 [GeForce RTX 3090]
\t1aef  GA102 High Definition Audio Controller
C 02  Network controller
"""
NIC, GPU, SOUND, PORT = "0000:03:00.0", "0000:42:00.0", "0000:42:00.1", "0000:00:1c.0"


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    """A card in use by its driver, a graphics card whose sound has a driver, and a port of the root complex."""
    fake_host.file("/usr/share/hwdata/pci.ids", IDS)
    place = fake_host.pci(NIC, "8086:1521", 0x020000, driver="igb", group=12)
    fake_host.net("eth1", place)
    fake_host.pci(GPU, "10de:2204", 0x030000, driver="vfio-pci", group=15)
    fake_host.pci(SOUND, "10de:1aef", 0x040300, driver="snd_hda_intel", group=15)
    fake_host.pci(PORT, "8086:a110", 0x060400, driver="pcieport", group=3, header_type=1)
    return fake_host


def data(host: FakeHost, *arguments: str) -> Any:
    return checked("pyvfio-list", json.loads(host.run("list", "--json", *arguments).out))


def cell(text: str, address: str, column: str) -> str:
    header, *rows = text.splitlines()
    start = header.index(column)
    (row,) = (row for row in rows if row.startswith(address))
    return row[start:].split("  ")[0].rstrip()


def test_a_group_that_firmware_claims_is_of_no_use(host: FakeHost) -> None:
    regions = "0x000000007ba1e000 0x000000007ba26fff direct\n0x00000000fee00000 0x00000000feefffff msi\n"
    host.file("/sys/kernel/iommu_groups/12/reserved_regions", regions)
    assert cell(host.run("list", "-w").out, NIC, "VIABLE") == "no: firmware claims 0x7ba1e000-0x7ba26fff"
    assert "no: firmware claims it" in host.run("list", NIC).out
    (entry,) = (entry for entry in data(host) if entry["address"] == NIC)
    assert (entry["viable"], entry["firmware_claims"]) == (False, ["0x7ba1e000-0x7ba26fff"])
    assert "viable: no: firmware claims 0x7ba1e000-0x7ba26fff" in host.run("show", NIC).out


def test_each_row_says_what_can_be_done(host: FakeHost) -> None:
    text = host.run("list", "-w").out
    assert cell(text, NIC, "VIABLE") == "once bound"
    assert cell(text, GPU, "VIABLE") == f"no: {SOUND} snd_hda_intel"
    assert cell(text, SOUND, "VIABLE") == "once bound"
    assert cell(text, PORT, "VIABLE") == "bridge"
    assert "itself" not in text
    viable = {entry["address"]: entry["viable"] for entry in data(host)}
    assert viable == {NIC: True, GPU: False, SOUND: True, PORT: False}


def test_names_are_short_and_numbers_in_hexadecimal_too(host: FakeHost) -> None:
    assert cell(host.run("list", "-w", NIC).out, NIC, "NAME") == "Intel I350 Gigabit Network Connection"
    (entry,) = data(host, NIC)
    assert entry["name"] == "Intel Corporation I350 Gigabit Network Connection"
    assert (entry["id"], entry["class"], entry["vendor_id"]) == ("8086:1521", "020000", 0x8086)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["eth1"], [NIC]),
        (["42:00.1"], [SOUND]),
        (["nvidia"], [GPU, SOUND]),
        (["NVIDIA", "audio"], [SOUND]),
        (["8086:"], [PORT, NIC]),
        (["--class", "ethernet"], [NIC]),
        (["--class", "Network"], [NIC]),
        (["--class", "0x03"], [GPU]),
        (["--class", "0403", "--class", "bridge"], [PORT, SOUND]),
        (["--driver", "vfio-pci"], [GPU]),
        (["--driver", "snd_*"], [SOUND]),
        (["--id", "10de:"], [GPU, SOUND]),
        (["--id", "8086:1521"], [NIC]),
        (["--id", ":2204", "--class", "vga"], [GPU]),
    ],
)
def test_filters(host: FakeHost, arguments: list[str], found: list[str]) -> None:
    assert [entry["address"] for entry in data(host, *arguments)] == found


@pytest.mark.parametrize("arguments", [["amd"], ["--driver", "none"], ["--id", "1234:"], ["eth7"]])
def test_nothing_found_is_said(host: FakeHost, arguments: list[str]) -> None:
    ran = host.run("list", *arguments)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "pyvfio: no PCI function is like that; pyvfio list shows all\n"


def test_a_host_without_pci_functions_has_an_empty_list(fake_host: FakeHost) -> None:
    fake_host.at("/sys/bus/pci/devices").mkdir(parents=True)
    ran = fake_host.run("list")
    assert (ran.status, ran.err, ran.out.count("\n")) == (0, "", 1)


def test_an_address_that_is_not_there(host: FakeHost) -> None:
    assert "there is no such device" in host.run("list", "05:00.0").err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "address,colour"], "there is no column COLOUR, only address, class"),
        (["--id", "82:576"], "'82:576' is no id: write 8086:1521, 8086: or :1521"),
        (["--id", ":"], "is no id"),
    ],
)
def test_what_cannot_be_asked_for(host: FakeHost, arguments: list[str], said: str) -> None:
    ran = host.run("list", *arguments)
    assert ran.status == 2
    assert said in ran.err


def test_columns_of_one_s_own(host: FakeHost) -> None:
    assert host.run("list", "-o", "driver,id,address", NIC).out == (
        "DRIVER  ID         ADDRESS\nigb     8086:1521  0000:03:00.0\n"
    )
    assert host.run("list", "-o", "+node", GPU).out.splitlines()[0].split()[-2:] == ["NET", "NODE"]


@pytest.fixture
def crowded(fake_host: FakeHost) -> FakeHost:
    """Long names, many in one group."""
    device = "NetXtreme-E 10Gb/25Gb RDMA Ethernet Controller of a name that goes on"
    fake_host.file("/usr/share/pci.ids", f"14e4  Broadcom Inc. and subsidiaries\n\t16d7  {device}\n")
    for number in range(6):
        place = fake_host.pci(f"0000:81:00.{number}", "14e4:16d7", 0x020000, driver="bnxt_en", group=40)
        fake_host.net(f"enp129s0f{number}np{number}", place)
    return fake_host


def test_rows_fit_a_hundred_columns(crowded: FakeHost) -> None:
    lines = crowded.run("list").out.splitlines()
    assert max(map(len, lines)) <= 100
    assert all("…" in line for line in lines[1:])
    assert all("np" in line for line in lines[1:])
    assert "bnxt_en" in lines[1]
    assert "no: 81:00.1 bnxt_…" in lines[1]
    assert len(lines[0].split()) == 9


@pytest.mark.parametrize("arguments", [["-w"], ["-v"], ["-o", "+fullname"]])
def test_whoever_asks_for_more_gets_it_whole(crowded: FakeHost, arguments: list[str]) -> None:
    text = crowded.run("list", *arguments).out
    assert "…" not in text
    assert "of a name that goes on" in text
    assert "no: 0000:81:00.1 bnxt_en, 0000:81:00.2 bnxt_en, 0000:81:00.3" in text


@pytest.mark.parametrize(
    "place",
    [
        "/usr/share/hwdata/pci.ids",
        "/usr/share/misc/pci.ids",
        "/usr/share/pci.ids",
        "/var/lib/pciutils/pci.ids",
        "/usr/share/hwdata/pci.ids.gz",
        "/usr/share/misc/pci.ids.gz",
        "/usr/share/pci.ids.gz",
    ],
)
def test_wherever_pci_ids_is_kept(fake_host: FakeHost, place: str) -> None:
    fake_host.pci(NIC, "8086:1521", 0x020000, group=1)
    fake_host.file(place, IDS)
    if place.endswith("gz"):
        fake_host.at(place).write_bytes(gzip.compress(IDS.encode()))
    assert "I350" in fake_host.run("list").out


HWDB = """# a comment

pci:v00008086*
 ID_VENDOR_FROM_DATABASE=Intel Corporation

pci:v00008086d00001521*
 ID_MODEL_FROM_DATABASE=I350 Gigabit Network Connection

pci:v00008086d00001522*
 ID_MODEL_FROM_DATABASE=I350 Gigabit Fiber Network Connection
"""


def compiled(text: str) -> bytes:
    """As systemd-hwdb makes it, with a node for each character."""
    sizes = (24, 16, 16)
    tree: dict[str, Any] = {}
    for match, properties in properties_of_text(text).items():
        node = tree
        for character in match:
            node = node.setdefault(character, {})
        node["="] = properties
    blob = bytearray(80)

    def string(text: str) -> int:
        blob.extend(text.encode() + b"\0")
        return len(blob) - len(text.encode()) - 1

    empty = string("")

    def node_at(node: dict[str, Any]) -> int:
        children = [(ord(name), node_at(child)) for name, child in sorted(node.items()) if name != "="]
        values = [(string(f" {name}"), string(value)) for name, value in node.get("=", {}).items()]
        at = len(blob)
        blob.extend(struct.pack("<QB7xQ", empty, len(children), len(values)))
        for child in children:
            blob.extend(struct.pack("<B7xQ", *child))
        for value in values:
            blob.extend(struct.pack("<QQ", *value))
        return at

    root = node_at(tree)
    struct.pack_into("<8s9Q", blob, 0, b"KSLPHHRH", 252, len(blob), 80, *sizes, root, 0, 0)
    return bytes(blob)


@pytest.mark.parametrize("place", ["/usr/lib/udev/hwdb.d/20-pci-vendor-model.hwdb", "/etc/udev/hwdb.bin"])
def test_systemd_s_database_serves_too(fake_host: FakeHost, place: str) -> None:
    fake_host.pci(NIC, "8086:1522", 0x020000, group=1)
    fake_host.file(place, HWDB)
    if place.endswith("bin"):
        fake_host.at(place).write_bytes(compiled(HWDB))
    assert "Intel I350 Gigabit Fiber Network Connection" in fake_host.run("list", "-w").out


def test_a_damaged_database_is_no_reason_to_fail(fake_host: FakeHost) -> None:
    fake_host.pci(NIC, "8086:1521", 0x020000, group=1)
    fake_host.file("/usr/share/hwdata/pci.ids.gz", "not compressed")
    fake_host.file("/etc/udev/hwdb.bin", "KSLPHHRH")
    assert "8086:1521" in fake_host.run("list").out
    whole = compiled(HWDB)
    for length in range(0, len(whole), 61):
        assert CompiledHwdb(whole[:length]).properties(pci_key(0x8086)).keys() <= {"ID_VENDOR_FROM_DATABASE"}
    for at in range(80, len(whole), 29):
        CompiledHwdb(whole[:at] + b"\xff" + whole[at + 1 :]).properties(pci_key(0x8086, 0x1521))


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Advanced Micro Devices, Inc. [AMD/ATI]", "AMD/ATI"),
        ("Realtek Semiconductor Co., Ltd.", "Realtek"),
        ("Samsung Electronics Co Ltd", "Samsung"),
        ("Broadcom Inc. and subsidiaries", "Broadcom"),
        ("Red Hat, Inc.", "Red Hat"),
        ("Micron/Crucial Technology", "Micron/Crucial"),
        ("Technology", "Technology"),
    ],
)
def test_vendors_by_what_people_call_them(name: str, short: str) -> None:
    assert short_vendor(name) == short


# An interface wherever an address is taken.


def test_an_interface_names_its_function(host: FakeHost) -> None:
    assert host.run("bind", "--dry-run", "eth1").out.splitlines()[1] == f"echo {NIC} > /sys/bus/pci/drivers/igb/unbind"
    assert host.run("show", "eth1").out.startswith(NIC)
    assert NIC in host.run("unbind", "--dry-run", "eth1").out


@pytest.mark.parametrize(
    ("interface", "path", "said"),
    [
        ("docker0", "/sys/devices/virtual/net/docker0", "the interface is not a PCI function's own"),
        ("usb0", f"/sys/devices/pci0000:00/{PORT}/usb1/1-1/net/usb0", "the interface is not a PCI function's own"),
        (None, "", "there is no network interface of that name here"),
    ],
)
def test_an_interface_that_is_no_function_s(host: FakeHost, interface: str | None, path: str, said: str) -> None:
    if interface:
        host.file(f"{path}/ifindex", "7")
        host.link(f"/sys/class/net/{interface}", path)
    for command in ("bind", "show"):
        ran = host.run(command, interface or "eht1")
        assert (ran.status, ran.err.count("\n")) == (1, 1)
        assert said in ran.err
