"""The machines cases run on: a simulated one for each kernel version and IOMMU model, and the one that runs this."""

from __future__ import annotations

import copy
import errno
import os
import re
import resource
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pyvfio import Container, DeviceNotBound, Kernel, LinuxKernel
from pyvfio.abi import mman, vfio
from pyvfio.abi.iommufd_test import IOMMU_TEST_CMD, iommu_test_cmd
from pyvfio.drivers.edu import DEVICE_ID, VENDOR_ID
from pyvfio.host import bind, restore
from pyvfio.kernel import exists, link_name, memlock, read_text, write_text
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices import VFIO_DRIVER, PlainDevice, nvme
from pyvfio.sysfs import DEVICES, group_members, pci_device, pci_devices
from tests.conformance.case import Version
from tests.conformance.child import Child, ForkedChild, SimulatedChild
from tests.support.capabilities import CAP_IPC_LOCK, set_effective

if TYPE_CHECKING:
    from tests.conformance.bench import Bench

_PAGE = 4096
_ANONYMOUS = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS
_READ_WRITE = mman.PROT_READ | mman.PROT_WRITE
IOMMUFD_ALLOW_UNSAFE_INTERRUPTS = "/sys/module/iommufd/parameters/allow_unsafe_interrupts"
_MDEV_TYPES = "/sys/class/mdev_bus/mtty/mdev_supported_types"
EDU = (VENDOR_ID, DEVICE_ID)
ENABLE_NOIOMMU = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
MDEV = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
ALLOW_UNSAFE_INTERRUPTS = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"


@dataclass(frozen=True, slots=True)
class TestMemory:
    """places: where each kind of memory begins. arena: pages for arguments, with none after them."""

    __test__ = False

    places: Mapping[str, int]
    arena: int


@dataclass(frozen=True, slots=True)
class Edu:
    """An edu device bound to vfio-pci."""

    address: str
    group: int


class Machine(ABC):
    """edus: edu devices by what cases call them: "0", "1", ... in groups of their own; "pair0" and "pair1" in one;
    "blocked" in a group with a device that a host driver has; and what is no edu: "mdev", a mediated device that can
    be migrated; "nvme", a controller with MSI-X and resets; "virtual", a virtual function of it while a case has one
    (add_virtual). features: what else there is, and the names of those that not every machine has.
    """

    def __init__(
        self, kernel: Kernel, version: Version, iommu: str, edus: Mapping[str, Edu], features: set[str]
    ) -> None:
        self.kernel = kernel
        self.version = version
        self.iommu = iommu
        self.edus = dict(edus)
        self.memory = _memory(kernel)
        features = features | ({"hugetlb"} if "hugetlb" in self.memory.places else set())
        self.features = frozenset(features | {name.rstrip("01") for name in edus if not name.isdigit()})

    @abstractmethod
    def charged(self) -> tuple[int, int]:
        """VmLck and VmPin in bytes, what type1 and iommufd have charged; only differences matter."""

    @abstractmethod
    def add_virtual(self) -> Callable[[], object]:
        """A virtual function of the controller, in a group of its own; what is returned takes it away."""

    @abstractmethod
    def child(self, bench: Bench) -> Child:
        """A second process, with what the bench has open."""

    @abstractmethod
    def limit_memlock(self, room: int, *, exempt: bool) -> Callable[[], object]:
        """Set RLIMIT_MEMLOCK so that there is room for that many bytes more, and whether CAP_IPC_LOCK is there.

        What is returned sets it back.
        """


class SimulatedMachine(Machine):
    def __init__(
        self,
        version: Version,
        iommu: str,
        *,
        remaps_interrupts: bool | None = None,
        iommufd: bool = True,
        iommufd_container: bool = False,
    ) -> None:
        """As SimKernel."""
        self.simulated = SimKernel(
            edu_devices=3,
            version=version,
            iommu=iommu,
            remaps_interrupts=remaps_interrupts,
            iommufd=iommufd,
            iommufd_test=True,
            iommufd_container=iommufd_container,
            host_huge_pages=False,
        )
        for address, group in (("0000:01:01.0", 9), ("0000:01:02.0", 9), ("0000:02:01.0", 10)):
            self.simulated.add(PciFunction(address, group, driver=VFIO_DRIVER))
        for module in self.simulated.parameters.values():
            module.update({name: "Y" for name in module if name == "allow_unsafe_interrupts"})
        self.simulated.add(
            PciFunction("0000:02:02.0", 10, 0x1AF4, 0x1005, host_driver="virtio-pci", driver="virtio-pci")
        )
        remapping = "remapping" if self.simulated.machine.remaps_interrupts else "no-remapping"
        if iommu == "none":
            write_text(self.simulated, ENABLE_NOIOMMU, "1")
        self.simulated.add(
            PciFunction(
                MDEV, 11, driver=VFIO_DRIVER, is_mediated=True, model=partial(PlainDevice, p2p=True), logs_dma=True
            )
        )
        self.simulated.add(
            PciFunction("0000:04:00.0", 12, *nvme.IDS, nvme.CLASS_CODE, driver=VFIO_DRIVER, model=nvme.Nvme)
        )
        features = _features(self.simulated) | {remapping}
        edus = {**_edus(self.simulated), "mdev": Edu(MDEV, 11)}
        super().__init__(self.simulated, version, iommu, edus, features)

    def spawn(self) -> SimulatedMachine:
        """As another process sees it."""
        other = copy.copy(self)
        other.kernel = other.simulated = self.simulated.spawn()
        return other

    def add_virtual(self) -> Callable[[], object]:
        physical = self.edus["nvme"]
        function = replace(
            self.simulated.functions[physical.address],
            address=_first_virtual(physical),
            group=physical.group + 1,
            physical_function=physical.address,
        )
        self.simulated.add(function)
        self.edus["virtual"] = Edu(function.address, function.group)
        return partial(self.simulated.functions.pop, function.address)

    def child(self, bench: Bench) -> Child:
        return SimulatedChild(bench, self)

    def charged(self) -> tuple[int, int]:
        # Not through /proc, where the running kernel has to be asked: this is done before and after every call.
        return self.simulated.charges.locked, self.simulated.charges.pinned

    def limit_memlock(self, room: int, *, exempt: bool) -> Callable[[], object]:
        kernel, before = self.simulated, (self.simulated.charges.limit, self.simulated.charges.exempt)

        def restore_limit() -> None:
            kernel.charges.limit, kernel.charges.exempt = before

        kernel.charges.limit, kernel.charges.exempt = memlock(kernel).charged + room, exempt
        return restore_limit


class RealMachine(Machine):
    def __init__(self, kernel: LinuxKernel, *, remaps_interrupts: bool, mdev: Edu | None) -> None:
        found = re.match(r"(\d+)\.(\d+)", os.uname().release)
        assert found is not None
        features = _features(kernel) | {"remapping" if remaps_interrupts else "no-remapping"}
        version = int(found[1]), int(found[2])
        edus = {**_edus(kernel), **({"mdev": mdev} if mdev else {})}
        super().__init__(kernel, version, iommu_model(kernel), edus, features)

    def add_virtual(self) -> Callable[[], object]:
        physical = self.edus["nvme"]
        directory = f"{DEVICES}/{physical.address}"
        # The emulated controller loses its virtual functions in a reset, which opening it would be: NumVFs is 0 then.
        write_text(self.kernel, f"{directory}/reset_method", "\n")
        write_text(self.kernel, "/sys/module/vfio_pci/parameters/enable_sriov", "Y")
        write_text(self.kernel, f"{directory}/sriov_numvfs", "1")
        virtual = pci_device(self.kernel, _first_virtual(physical))
        assert virtual.group not in (None, physical.group)
        self.edus["virtual"] = Edu(virtual.address, virtual.group or 0)

        def take_away() -> None:
            write_text(self.kernel, f"{directory}/sriov_numvfs", "0")
            write_text(self.kernel, f"{directory}/reset_method", "default")

        return take_away

    def child(self, bench: Bench) -> Child:
        return ForkedChild(bench)

    def charged(self) -> tuple[int, int]:
        found = re.findall(r"Vm(?:Lck|Pin):\s*(\d+)", read_text(self.kernel, "/proc/self/status"))
        return int(found[0]) << 10, int(found[1]) << 10

    def limit_memlock(self, room: int, *, exempt: bool) -> Callable[[], object]:
        size = self.charged()[0] + room
        before = resource.getrlimit(resource.RLIMIT_MEMLOCK)

        def restore_limit() -> None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
            set_effective(CAP_IPC_LOCK, True)

        resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, max(size, before[1])))
        set_effective(CAP_IPC_LOCK, exempt)
        return restore_limit


@contextmanager
def real_machine() -> Iterator[RealMachine]:
    """The running kernel, with its edu devices in vfio-pci's hands meanwhile, and unsafe interrupts allowed."""
    kernel = LinuxKernel()
    with ExitStack() as stack:
        for address in _functions(kernel, EDU) + _functions(kernel, nvme.IDS):
            # A virtual IOMMU may not cover all: those have no group, and cases go without them.
            with suppress(DeviceNotBound):
                stack.callback(restore, kernel, bind(kernel, address))
        remaps = _remaps_interrupts(kernel)
        mdev = _create_mdev(kernel)
        if mdev is not None:
            stack.callback(write_text, kernel, f"/sys/bus/mdev/devices/{MDEV}/remove", "1")
        yield RealMachine(kernel, remaps_interrupts=remaps, mdev=mdev)


def _create_mdev(kernel: Kernel) -> Edu | None:
    """With the kernel's sample of a driver for mediated devices, if it is loaded."""
    try:
        (kind, *_) = kernel.listdir(_MDEV_TYPES)
    except FileNotFoundError:
        return None
    write_text(kernel, f"{_MDEV_TYPES}/{kind}/create", MDEV)
    group = link_name(kernel, f"/sys/bus/mdev/devices/{MDEV}/iommu_group")
    return Edu(MDEV, int(group)) if group else None


def _first_virtual(physical: Edu) -> str:
    """Its address."""
    return physical.address[:-1] + "1"


def _remaps_interrupts(kernel: Kernel) -> bool:
    """Whether a container takes a group without being told to trust its interrupts; here it is told so afterwards."""
    if _is_noiommu(kernel):
        return True
    switches = [path for path in (ALLOW_UNSAFE_INTERRUPTS, IOMMUFD_ALLOW_UNSAFE_INTERRUPTS) if exists(kernel, path)]
    for path in switches:
        write_text(kernel, path, "0")
    with Container(kernel=kernel) as container:
        try:
            container.open_device(next(iter(_edus(kernel).values())).address)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            return False
        finally:
            for path in switches:
                write_text(kernel, path, "1")
    return True


def _memory(kernel: Kernel) -> TestMemory:
    places = {
        "anon": kernel.mmap(512 * _PAGE, _READ_WRITE, _ANONYMOUS | mman.MAP_POPULATE),
        "readonly": kernel.mmap(16 * _PAGE, mman.PROT_READ, _ANONYMOUS),
        "none": kernel.mmap(16 * _PAGE, mman.PROT_NONE, _ANONYMOUS),
        "bitmap": kernel.mmap(16 * _PAGE, _READ_WRITE, _ANONYMOUS | mman.MAP_POPULATE),
        # Below any mapping: nothing is ever there.
        "hole": 0x10000,
        # The half of the address space that is the kernel's.
        "kernel": 0xFFFF_8000_0000_0000,
        "null": 0,
    }
    with suppress(OSError):
        flags = _ANONYMOUS | mman.MAP_HUGETLB | mman.MAP_HUGE_2MB | mman.MAP_POPULATE
        places["hugetlb"] = kernel.mmap(512 * _PAGE, _READ_WRITE, flags)
    fd = kernel.memfd_create("conformance", 0)
    kernel.ftruncate(fd, 64 * _PAGE)
    places["memfd"] = kernel.mmap(64 * _PAGE, _READ_WRITE, mman.MAP_SHARED, fd)
    kernel.close(fd)
    arena = kernel.mmap(5 * _PAGE, _READ_WRITE, _ANONYMOUS | mman.MAP_POPULATE)
    kernel.mmap(_PAGE, mman.PROT_NONE, _ANONYMOUS | mman.MAP_FIXED, address=arena + 4 * _PAGE)
    return TestMemory(places, arena)


def _features(kernel: Kernel) -> set[str]:
    """What not every kernel is configured for."""
    features = {"cdev"} if exists(kernel, "/dev/vfio/devices") else set()
    features |= {"noiommu"} if _is_noiommu(kernel) else set()
    features.add("compat" if _is_compat(kernel) else "type1")
    with suppress(FileNotFoundError):
        fd = kernel.open("/dev/iommu", os.O_RDWR)
        features |= {"iommufd"} | ({"iommufd-test"} if _has_test_devices(kernel, fd) else set())
        kernel.close(fd)
    return features


def _has_test_devices(kernel: Kernel, iommufd: int) -> bool:
    try:
        kernel.ioctl(iommufd, IOMMU_TEST_CMD, iommu_test_cmd())
    except OSError as error:
        return error.errno == errno.EOPNOTSUPP
    return True


def _is_compat(kernel: Kernel) -> bool:
    """Whether the container's node is iommufd's, which can tell nothing of an IOMMU before it has a group."""
    fd = kernel.open("/dev/vfio/vfio", os.O_RDWR)
    try:
        kernel.ioctl(fd, vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_DMA_CC_IOMMU)
    except OSError as error:
        return error.errno == errno.ENODEV
    finally:
        kernel.close(fd)
    return False


def _is_noiommu(kernel: Kernel) -> bool:
    """Whether groups have been made for devices that have no IOMMU."""
    return any(name.startswith("noiommu-") for name in kernel.listdir("/dev/vfio"))


def _functions(kernel: Kernel, ids: tuple[int, int]) -> list[str]:
    """Addresses, also of those that share a group."""
    return [each.address for each in pci_devices(kernel) if (each.vendor_id, each.device_id) == ids]


def _edus(kernel: Kernel) -> dict[str, Edu]:
    """What cases call the edu devices, by who else is in their groups, and the NVMe controller."""
    by_group: dict[int, list[str]] = {}
    for address in _functions(kernel, EDU):
        group = pci_device(kernel, address).group
        if group is not None and pci_device(kernel, address).has_vfio_driver:
            by_group.setdefault(group, []).append(address)
    edus: dict[str, Edu] = {}
    for group, addresses in sorted(by_group.items()):
        members = [member for member in group_members(kernel, group) if not member.is_bridge]
        if len(members) == 1:
            names = [str(sum(name.isdigit() for name in edus))]
        elif len(addresses) == 2:
            names = ["pair0", "pair1"]
        else:
            names = ["blocked"]
        edus |= {name: Edu(address, group) for name, address in zip(names, addresses, strict=True)}
    for address in _functions(kernel, nvme.IDS):
        group = pci_device(kernel, address).group
        if group is not None and pci_device(kernel, address).has_vfio_driver:
            edus["nvme"] = Edu(address, group)
    return edus


def iommu_model(kernel: Kernel) -> str:
    """By the names of /sys/class/iommu; a virtio IOMMU has none there, but groups."""
    names = kernel.listdir("/sys/class/iommu")
    prefixes = {"dmar": "intel", "ivhd": "amd"}
    if _is_noiommu(kernel):
        return "none"
    others = "virtio" if kernel.listdir("/sys/kernel/iommu_groups") else "none"
    return next((model for prefix, model in prefixes.items() if any(each.startswith(prefix) for each in names)), others)
