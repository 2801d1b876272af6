"""Devices that do not answer, BARs that somebody else has, groups that firmware has."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from pyvfio import Container, Ioas, VfioError
from pyvfio.abi import vfio
from pyvfio.cli import main
from pyvfio.drivers.edu import VENDOR_ID
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.host import Host, UndoFile
from pyvfio.sim import SimKernel
from pyvfio.sim.devices import PciFunction
from tests.support.hosts import FakeHost
from tests.support.kernels.hardware import NVME
from tests.support.overlay import OverlayKernel

NIC = "0000:04:00.1"
EDU = "0000:00:03.0"
RMRR = (0x7BA1_E000, 0x7BA2_6FFF)


class Silent(FaultyKernel):
    """Reading the device gives all ones."""

    is_silent = False

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        data = super().pread(fd, size, offset)
        return b"\xff" * size if self.is_silent else data


@pytest.fixture
def silent() -> Silent:
    kernel = SimKernel()
    kernel.add(replace(NVME).function())
    return Silent(kernel)


def test_config_space_of_all_ones_is_a_device_that_does_not_answer(silent: Silent) -> None:
    with Container(kernel=silent) as container:
        config = container.open_device(NVME.address).config
        silent.is_silent = True
        for walk in (config.capabilities, config.extended_capabilities):
            with pytest.raises(VfioError, match=r"does not answer, all of it reads as ones: .*cut its power"):
                list(walk())


def test_show_prints_what_needs_no_config_space(silent: Silent, capsys: pytest.CaptureFixture[str]) -> None:
    silent.is_silent = True
    assert main(["show", "--open", NVME.address], Host(silent)) == 0
    text = capsys.readouterr().out
    assert "does not answer" in text
    assert "BAR0" in text
    assert main(["show", "--open", "--json", NVME.address], Host(silent)) == 0
    assert '"capabilities": []' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"reset_method": "flr bus"}, "flr, bus"),
        ({"reset": ""}, "yes (this kernel does not say how)"),
        ({"reset": "", "reset_method": "device_specific"}, "device_specific"),
        ({}, "no method of its own"),
    ],
)
def test_kernels_before_5_15_do_not_say_how_they_reset(
    fake_host: FakeHost, files: dict[str, str], sentence: str
) -> None:
    place = fake_host.pci("0000:00:14.0", "8086:a36d", 0x0C0330, driver="xhci_hcd", group=4)
    for name, text in files.items():
        fake_host.file(f"{place}/{name}", text)
    (row,) = (line for line in fake_host.run("show", "00:14.0").out.splitlines() if line.split()[0] == "reset")
    assert row.split(maxsplit=1)[1] == sentence


@pytest.mark.parametrize("call", ["mmap", "pread"])
@pytest.mark.parametrize(
    ("iomem", "who"),
    [
        ("e0000000-efffffff : PCI Bus 0000:00\n  e0000000-e07effff : BOOTFB\n", "BOOTFB has"),
        ("00000000-00000000 : PCI Bus 0000:00\n  00000000-00000000 : BOOTFB\n", "something else on the host has"),
    ],
)
def test_a_bar_that_a_boot_framebuffer_has(call: str, iomem: str, who: str) -> None:
    """EBUSY of mmap, and of reading it without."""
    overlay = OverlayKernel(
        SimKernel(edu_devices=1),
        {
            "/proc/iomem": iomem,
            f"/sys/bus/pci/devices/{EDU}/resource": "0x00000000e0000000 0x00000000e0ffffff 0x0000000000140200\n",
        },
    )
    with Container(kernel=overlay) as container:
        device = container.open_device(EDU)
        region = device.region(0)
        overlay.arm(Fault(name=call, errno=errno.EBUSY))
        with pytest.raises(VfioError, match=rf"{who} reserved addresses of this BAR.*sysfb_init") as caught:
            region.read(0, 4) if call == "pread" else region.read32(0)
        assert caught.value.errno == errno.EBUSY


@pytest.mark.parametrize("version", [(6, 1), (6, 12)])
@pytest.mark.parametrize("kind", [Container, Ioas])
def test_a_group_that_firmware_claims(version: tuple[int, int], kind: type[Container | Ioas]) -> None:
    """An RMRR: EINVAL since Linux 6.6, EPERM of the IOMMU's driver before; never the interrupts' fault."""
    kernel = SimKernel(version=version)
    kernel.add(PciFunction(EDU, group=3, driver="vfio-pci", direct=(RMRR,), vendor_id=VENDOR_ID))
    if kind is Ioas and version < (6, 6):
        pytest.skip("no nodes of devices then")
    with kind(kernel=kernel) as space, pytest.raises(VfioError) as caught:
        space.open_device(EDU)
    assert "firmware claims 0x7ba1e000-0x7ba26fff for group 3" in str(caught.value)
    assert "unsafe_interrupts" not in str(caught.value)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EPERM])
def test_what_else_refuses_an_iommu_is_explained_as_before(code: int) -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=1), Fault(request=vfio.VFIO_SET_IOMMU, errno=code))
    with Container(kernel=kernel) as container, pytest.raises(VfioError) as caught:
        container.open_device(EDU)
    assert "firmware" not in str(caught.value)


@pytest.fixture
def slot(fake_host: FakeHost) -> FakeHost:
    """A card that is bound, and noted as igb's."""
    fake_host.pci(NIC, "8086:1521", 0x020000, driver="igb", group=5)
    fake_host.run("bind", NIC)
    return fake_host


def test_another_card_in_the_slot_is_left_alone(slot: FakeHost) -> None:
    place = f"/sys/devices/pci0000:00/{NIC}"
    slot.file(f"{place}/vendor", "0x10de\n")
    slot.file(f"{place}/device", "0x1b06\n")
    slot.kernel.writes.clear()
    assert slot.run("restore", "--dry-run").out == ""
    assert slot.run("restore").out == f"{NIC}: another device (10de:1b06) is there now, nothing to restore\n"
    assert slot.kernel.writes == []
    assert not slot.undo_file.exists()


def test_a_later_bind_notes_the_card_that_is_there_now(slot: FakeHost) -> None:
    place = f"/sys/devices/pci0000:00/{NIC}"
    slot.file(f"{place}/device", "0x1b06\n")
    slot.take(NIC)
    slot.run("bind", NIC)
    (entry,) = UndoFile(slot.undo_file).read()
    assert (entry.driver, entry.ids) == (None, "8086:1b06")


@pytest.mark.parametrize(
    "text", ["[]", "1", '{"version": 1, "devices": [1]}', '{"version": 1, "devices": [{"address": 5}]}', "[" * 100_000]
)
def test_an_undo_file_that_is_none(fake_host: FakeHost, text: str) -> None:
    fake_host.undo_file.write_text(text)
    said = fake_host.run("restore")
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert f"{fake_host.undo_file} is no undo file" in said.err


def test_a_kernel_without_groups_has_no_node_of_them(fake_host: FakeHost) -> None:
    """CONFIG_VFIO_GROUP=n: the device's own node is what there is to wait for."""
    place = fake_host.pci(NIC, "8086:1521", 0x020000, group=5)
    fake_host.file(f"{place}/vfio-dev/vfio0/dev", "511:0\n")
    fake_host.file("/dev/vfio/devices/vfio0", "")
    fake_host.has_groups = False
    assert fake_host.run("bind", NIC).out == f"{NIC}: no driver -> vfio-pci  /dev/vfio/devices/vfio0\n"


def test_a_node_that_does_not_come_leaves_the_host_as_it_was(fake_host: FakeHost) -> None:
    fake_host.pci(NIC, "8086:1521", 0x020000, driver="igb", group=5)
    fake_host.file("/sys/class/vfio/x", "")
    fake_host.has_groups = False
    assert "it did not appear" in fake_host.run("bind", NIC).err
    assert fake_host.driver_of(NIC) == "igb"
    assert not fake_host.undo_file.exists()


@pytest.mark.parametrize("command", [["restore"], ["bind", NIC]])
def test_files_that_may_not_be_read_are_named(fake_host: FakeHost, command: list[str]) -> None:
    fake_host.pci(NIC, "8086:1521", 0x020000, driver="igb", group=5)
    fake_host.errors[f"/sys/bus/pci/devices/{NIC}/driver_override"] = errno.EACCES
    fake_host.undo_file.write_text(f'{{"version": 1, "devices": [{{"address": "{NIC}", "driver": "igb"}}]}}')
    said = fake_host.run(*command)
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert f"there is no permission for /sys/bus/pci/devices/{NIC}/driver_override" in said.err
    assert "Errno" not in said.err
