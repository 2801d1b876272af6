"""What vfio-pci will refuse is said before anything is unbound, in a dry run too."""

from __future__ import annotations

import errno

import pytest

from pyvfio import DeviceNotBound
from pyvfio.host import bind
from pyvfio.sim import SimKernel
from pyvfio.sim.devices import PciFunction
from tests.support.hosts import FakeHost

NIC = "0000:04:00.1"
DIRECT = "0x000000007ba1e000 0x000000007ba26fff direct\n"


def qat(host: FakeHost) -> None:
    host.pci(NIC, "8086:37c8", 0x0B4000, driver="c6xx", group=5)
    host.file("/sys/module/vfio_pci/parameters/disable_denylist", "N\n")


def dsa(host: FakeHost) -> None:
    host.pci(NIC, "8086:0b25", 0x088000, driver="idxd", group=5)
    host.file("/sys/module/vfio_pci/parameters/disable_denylist", "N\n")
    host.file("/proc/sys/kernel/osrelease", "6.12.9-amd64\n")


def without_iommu(host: FakeHost) -> None:
    host.pci(NIC, "8086:1521", 0x020000, driver="igb")
    host.file("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n")


def other_iommus_only(host: FakeHost) -> None:
    """A board whose IOMMUs serve the display and the codec, and no PCI function."""
    without_iommu(host)
    host.file("/sys/class/iommu/1000005280.iommu/x", "")


def with_functions_enabled(host: FakeHost) -> None:
    host.pci(NIC, "8086:1521", 0x020000, group=5, sriov_numvfs="2")


def claimed_by_firmware(host: FakeHost) -> None:
    host.pci(NIC, "8086:1521", 0x020000, driver="igb", group=5)
    host.group(5, reserved=DIRECT)


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (qat, "vfio-pci will not take it: its deny list has 8086:37c8, for errata that a user could exploit"),
        (dsa, "its deny list has 8086:0b25"),
        (without_iommu, "vfio-pci will not take it: there is no IOMMU behind it. pyvfio doctor says what is missing"),
        (other_iommus_only, "there is no IOMMU behind it"),
        (with_functions_enabled, "2 virtual functions of it are enabled. As root give it back to its own driver"),
        (claimed_by_firmware, "firmware claims 0x7ba1e000-0x7ba26fff for group 5"),
    ],
)
def test_what_will_be_refused(fake_host: FakeHost, layout: object, sentence: str, dry_run: list[str]) -> None:
    assert callable(layout)
    layout(fake_host)
    driver = fake_host.driver_of(NIC)
    refused = fake_host.run("bind", *dry_run, NIC)
    assert refused.status == 1
    assert sentence in refused.err
    assert fake_host.kernel.writes == []
    assert fake_host.driver_of(NIC) == driver


def test_who_has_switched_the_deny_list_off_may(fake_host: FakeHost) -> None:
    qat(fake_host)
    fake_host.file("/sys/module/vfio_pci/parameters/disable_denylist", "Y\n")
    assert fake_host.run("bind", NIC).status == 0


def test_an_older_kernel_does_not_deny_what_later_ones_do(fake_host: FakeHost) -> None:
    dsa(fake_host)
    fake_host.file("/proc/sys/kernel/osrelease", "6.1.0-13-amd64\n")
    assert fake_host.run("bind", NIC).status == 0


def test_a_kernel_without_a_deny_list_denies_nothing(fake_host: FakeHost) -> None:
    """The list came with its parameter, in Linux 5.9; distributions have it earlier."""
    qat(fake_host)
    fake_host.at("/sys/module/vfio_pci/parameters/disable_denylist").unlink()
    assert fake_host.run("bind", NIC).status == 0


def test_a_variant_driver_has_no_deny_list(fake_host: FakeHost) -> None:
    qat(fake_host)
    fake_host.driver("qat_vfio_pci")
    assert fake_host.run("bind", "--driver", "qat_vfio_pci", NIC).status == 0


def test_noiommu_mode_takes_what_has_no_iommu(fake_host: FakeHost) -> None:
    without_iommu(fake_host)
    fake_host.file("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n")
    assert fake_host.run("bind", "--dry-run", NIC).status == 0


def test_behind_a_virtio_iommu_what_has_had_no_driver_is_bound(fake_host: FakeHost) -> None:
    """Its group is made with its first driver. Only then is it known that it is behind the IOMMU."""
    fake_host.virtio_iommu()
    fake_host.pci(NIC)
    assert "viable: not known yet" in fake_host.run("show", NIC).out
    assert "not known yet" in fake_host.run("list", NIC).out
    assert "virtio-iommu, 1 unit" in fake_host.run("doctor").out
    fake_host.driver("vfio-pci").makes_group[NIC] = 3
    bound = fake_host.run("bind", NIC)
    assert (bound.status, bound.err) == (0, "")
    assert fake_host.driver_of(NIC) == "vfio-pci"


def test_beside_a_virtio_iommu_it_is_tried(fake_host: FakeHost) -> None:
    without_iommu(fake_host)
    fake_host.virtio_iommu()
    refused = fake_host.run("bind", NIC)
    assert "vfio-pci did not take it: there is no IOMMU behind it" in refused.err
    assert fake_host.driver_of(NIC) == "igb"


def test_who_insists_may_bind_what_firmware_claims(fake_host: FakeHost) -> None:
    claimed_by_firmware(fake_host)
    assert fake_host.run("bind", "--force", NIC).status == 0


ETHERNET, USB, DISPLAY = 0x020000, 0x0C0330, 0x030000


@pytest.mark.parametrize(
    ("release", "unit", "class_code", "is_refused"),
    [
        ("6.6.9", "ivhd0", ETHERNET, True),
        ("6.6.9", "dmar0", ETHERNET, True),
        ("6.1.0-18-amd64", "ivhd0", ETHERNET, False),
        ("6.1.0-18-amd64", "smmu3.0x100", ETHERNET, False),
        ("6.1.0-18-amd64", "dmar0", USB, True),
        ("4.19.0-21-amd64", "dmar0", USB, False),
        ("4.19.0-21-amd64", "dmar0", DISPLAY, False),
        ("4.19.0-21-amd64", "dmar0", ETHERNET, True),
    ],
)
def test_which_kernels_refuse_what_firmware_claims(
    fake_host: FakeHost, release: str, unit: str, class_code: int, is_refused: bool
) -> None:
    """All IOMMUs since Linux 6.6, Intel's before; before 5.3 what may be relaxed was called direct as well."""
    fake_host.file("/proc/sys/kernel/osrelease", f"{release}\n")
    fake_host.file(f"/sys/class/iommu/{unit}/x", "")
    fake_host.pci(NIC, "8086:1c2d", class_code, driver="ehci-pci", group=5)
    fake_host.group(5, reserved=DIRECT)
    assert ("firmware claims" in fake_host.run("list", "-w", NIC).out) == is_refused
    assert ("firmware claims" in fake_host.run("bind", NIC).err) == is_refused


def test_relaxable_regions_are_no_obstacle(fake_host: FakeHost) -> None:
    fake_host.pci(NIC, "8086:1c2d", 0x0C0320, driver="ehci-pci", group=5)
    fake_host.group(5, reserved="0x00000000bd000000 0x00000000bdffffff direct-relaxable\n")
    assert fake_host.run("bind", NIC).status == 0


def test_where_the_cause_is_not_known_the_log_says_it(fake_host: FakeHost) -> None:
    fake_host.pci(NIC, "8086:1521", 0x020000, driver="igb", group=5)
    fake_host.driver("vfio-pci").refuses[NIC] = errno.ENODEV
    refused = fake_host.run("bind", NIC)
    assert f"vfio-pci did not take it: its driver is none. The kernel log says why: dmesg | grep {NIC}" in refused.err
    assert fake_host.driver_of(NIC) == "igb"


def test_a_device_that_does_not_answer(fake_host: FakeHost) -> None:
    place = fake_host.pci(NIC, "8086:1521", 0x020000, group=5)
    fake_host.at(f"{place}/config").write_bytes(b"\xff" * 64)
    said = fake_host.run("bind", "--dry-run", NIC).out
    assert f"# {NIC}: the device does not answer, all of it reads as ones" in said
    assert f"echo 1 > /sys/bus/pci/devices/{NIC}/remove" in said


def test_the_simulated_drivers_probe_does_not_tell() -> None:
    """The write succeeds whatever the driver's probe says; who binds has to look."""
    kernel = SimKernel()
    kernel.add(PciFunction(NIC, group=5, host_driver="igb", driver="igb", drivers_refusing={"vfio-pci"}))
    with pytest.raises(DeviceNotBound, match=r"its driver is none\. The kernel log says why"):
        bind(kernel, NIC)
    assert kernel.functions[NIC].driver == "igb"
