"""The machines cases run on: a simulated one for each kernel version and IOMMU model, and the one that runs this."""

from __future__ import annotations

import errno
import os
import re
import resource
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from pyvfio import Container, DeviceNotBound, Kernel, LinuxKernel
from pyvfio.abi import mman
from pyvfio.drivers.edu import DEVICE_ID, VENDOR_ID
from pyvfio.files import exists, read_text, write_text
from pyvfio.host.bind import bind, restore
from pyvfio.host.pci import group_members, pci_device, pci_devices
from pyvfio.limits import memlock
from pyvfio.sim import SimKernel
from pyvfio.sim.pci import VFIO_DRIVER, PciFunction
from tests.conformance.case import Version
from tests.memlock import CAP_IPC_LOCK, set_effective

_PAGE = 4096
_ANONYMOUS = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS
_READ_WRITE = mman.PROT_READ | mman.PROT_WRITE
IOMMUFD_ALLOW_UNSAFE_INTERRUPTS = "/sys/module/iommufd/parameters/allow_unsafe_interrupts"
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
    "blocked" in a group with a device that a host driver has. features: what else there is, and "pair", "blocked"."""

    def __init__(
        self, kernel: Kernel, version: Version, iommu: str, edus: Mapping[str, Edu], features: set[str]
    ) -> None:
        self.kernel = kernel
        self.version = version
        self.iommu = iommu
        self.edus = edus
        self.features = frozenset(features | {name.rstrip("01") for name in edus if not name.isdigit()})
        self.memory = _memory(kernel)

    @abstractmethod
    def charged(self) -> int:
        """Bytes that count towards RLIMIT_MEMLOCK, VmLck; only differences matter."""

    @abstractmethod
    def limit_memlock(self, room: int, *, exempt: bool) -> Callable[[], object]:
        """Set RLIMIT_MEMLOCK so that there is room for that many bytes more, and whether CAP_IPC_LOCK is there.

        What is returned sets it back.
        """


class SimulatedMachine(Machine):
    def __init__(self, version: Version, iommu: str, *, remaps_interrupts: bool | None = None) -> None:
        self.simulated = SimKernel.with_edu_devices(
            3, version=version, iommu=iommu, remaps_interrupts=remaps_interrupts
        )
        for address, group in (("0000:01:01.0", 9), ("0000:01:02.0", 9), ("0000:02:01.0", 10)):
            self.simulated.add(PciFunction(address, group, driver=VFIO_DRIVER))
        for module in self.simulated.sysfs.modules.values():
            module.update({name: "Y" for name in module if name == "allow_unsafe_interrupts"})
        self.simulated.add(
            PciFunction("0000:02:02.0", 10, 0x1AF4, 0x1005, host_driver="virtio-pci", driver="virtio-pci")
        )
        features = {"remapping" if self.simulated.remaps_interrupts else "no-remapping"}
        features |= {"iommufd"} if version >= (6, 2) else set()
        features |= {"cdev"} if version >= (6, 6) else set()
        super().__init__(self.simulated, version, iommu, _edus(self.simulated), features)

    def charged(self) -> int:
        # Not through /proc, where the running kernel has to be asked: this is done before and after every call.
        return self.simulated.locked_bytes

    def limit_memlock(self, room: int, *, exempt: bool) -> Callable[[], object]:
        kernel, before = self.simulated, (self.simulated.charges.limit, self.simulated.charges.exempt)

        def restore_limit() -> None:
            kernel.charges.limit, kernel.charges.exempt = before

        kernel.charges.limit, kernel.charges.exempt = memlock(kernel).charged + room, exempt
        return restore_limit


class RealMachine(Machine):
    def __init__(self, kernel: LinuxKernel, *, remaps_interrupts: bool) -> None:
        found = re.match(r"(\d+)\.(\d+)", os.uname().release)
        assert found is not None
        features = {"cdev"} if exists(kernel, "/dev/vfio/devices") else set()
        features |= {"iommufd"} if exists(kernel, "/dev/iommu") else set()
        features |= {"remapping" if remaps_interrupts else "no-remapping"}
        version = int(found[1]), int(found[2])
        super().__init__(kernel, version, _iommu_model(kernel), _edus(kernel), features)

    def charged(self) -> int:
        found = re.search(r"VmLck:\s*(\d+)", read_text(self.kernel, "/proc/self/status"))
        return int(found[1]) << 10 if found else 0

    def limit_memlock(self, room: int, *, exempt: bool) -> Callable[[], object]:
        size = self.charged() + room
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
        for address in _edu_functions(kernel):
            # A virtual IOMMU may not cover all: those have no group, and cases go without them.
            with suppress(DeviceNotBound):
                stack.callback(restore, kernel, bind(kernel, address))
        yield RealMachine(kernel, remaps_interrupts=_remaps_interrupts(kernel))


def _remaps_interrupts(kernel: Kernel) -> bool:
    """Whether a container takes a group without being told to trust its interrupts; here it is told so afterwards."""
    write_text(kernel, ALLOW_UNSAFE_INTERRUPTS, "0")
    with Container(kernel=kernel) as container:
        try:
            container.open_group(next(iter(_edus(kernel).values())).group)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            return False
        finally:
            write_text(kernel, ALLOW_UNSAFE_INTERRUPTS, "1")
            with suppress(FileNotFoundError):
                write_text(kernel, IOMMUFD_ALLOW_UNSAFE_INTERRUPTS, "1")
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
    fd = kernel.memfd_create("conformance", 0)
    kernel.ftruncate(fd, 64 * _PAGE)
    places["memfd"] = kernel.mmap(64 * _PAGE, _READ_WRITE, mman.MAP_SHARED, fd)
    kernel.close(fd)
    arena = kernel.mmap(5 * _PAGE, _READ_WRITE, _ANONYMOUS | mman.MAP_POPULATE)
    kernel.mmap(_PAGE, mman.PROT_NONE, _ANONYMOUS | mman.MAP_FIXED, address=arena + 4 * _PAGE)
    return TestMemory(places, arena)


def _edu_functions(kernel: Kernel) -> list[str]:
    """Addresses, also of those that share a group."""
    return [each.address for each in pci_devices(kernel) if (each.vendor_id, each.device_id) == (VENDOR_ID, DEVICE_ID)]


def _edus(kernel: Kernel) -> dict[str, Edu]:
    """What cases call the edu devices, by who else is in their groups."""
    by_group: dict[int, list[str]] = {}
    for address in _edu_functions(kernel):
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
    return edus


def _iommu_model(kernel: Kernel) -> str:
    """By the names of /sys/class/iommu."""
    names = kernel.listdir("/sys/class/iommu")
    prefixes = {"dmar": "intel", "ivhd": "amd", "virtio": "virtio"}
    return next((model for prefix, model in prefixes.items() if any(each.startswith(prefix) for each in names)), "none")
