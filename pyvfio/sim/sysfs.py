"""sysfs, as it shows the PCI functions of the simulated machine, and the nodes in /dev/vfio."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from pyvfio.abi.tainted import TAINT_USER
from pyvfio.sim.devices import VFIO_DRIVER, PciFunction
from pyvfio.sim.iommu import Span
from pyvfio.sim.process import File, Text, fail

_DEVICES = "/sys/bus/pci/devices"
_DRIVERS = "/sys/bus/pci/drivers"
_GROUPS = "/sys/kernel/iommu_groups"
_TYPE1 = "/sys/module/vfio_iommu_type1/parameters"
_UNITS = "/sys/class/iommu"
_CORE = "/sys/module/vfio/parameters"
_IOMMUFD = "/sys/module/iommufd/parameters"
_VFIO = "/dev/vfio"
# The running kernel's own devices must not be taken for this machine's.
_COVERED = ("/sys/bus/", _GROUPS, "/sys/module/vfio", "/sys/module/iommufd", _VFIO, "/sys/class", "/proc/bus/")
_CLASSES: Mapping[str, Callable[[PciFunction], tuple[str, ...]]] = {
    "/sys/class/net": lambda function: function.interfaces,
    "/sys/class/block": lambda function: function.disks,
}


class Sysfs:
    """The files of sysfs and the directory /dev/vfio. Methods raise OSError as the kernel does."""

    def __init__(
        self,
        functions: dict[str, PciFunction],
        dma_entry_limit: int,
        *,
        cdev: bool = False,
        noiommu_cdev: bool = False,
        iommu: bool = True,
        iommu_unit: str | None = None,
        groups_at_bind: bool = False,
        reserved_regions: Sequence[tuple[Span, str]] = (),
    ) -> None:
        """functions: by address. cdev: devices have nodes of their own; noiommu_cdev: those without an IOMMU too.
        iommu: there is one; iommu_unit: where in /sys/devices its unit is, None for none; groups_at_bind: a device gets
        its group only when a driver is first bound to it; reserved_regions: what it reserves for every device that it
        translates for. dma_entry_limit: the parameter of vfio_iommu_type1."""
        self._functions = functions
        self._cdev = cdev
        self._noiommu_cdev = noiommu_cdev
        self._iommu = iommu
        self._regions_of_iommu = tuple(reserved_regions)
        self._iommu_unit = iommu_unit
        self._groups_at_bind = groups_at_bind
        self._probed: set[str] = set()
        self._owners: dict[str, tuple[int, int]] = {}
        self.release_device: Callable[[str], None] = _release_nothing
        """Called with the address of a function that VFIO's driver is taken off; returns when nobody has it open."""
        self.tainted = 0
        """The bits of /proc/sys/kernel/tainted."""
        self.parameters = {"dma_entry_limit": str(dma_entry_limit), "allow_unsafe_interrupts": "N"}
        self.modules = {
            _TYPE1: self.parameters,
            _CORE: {"enable_unsafe_noiommu_mode": "N"},
            _IOMMUFD: {"allow_unsafe_interrupts": "N"},
        }
        """Parameters of modules, by their directory."""

    @property
    def allows_unsafe_interrupts(self) -> bool:
        return _is_on(self.parameters["allow_unsafe_interrupts"])

    @property
    def iommufd_allows_unsafe_interrupts(self) -> bool:
        return _is_on(self.modules[_IOMMUFD]["allow_unsafe_interrupts"])

    @property
    def allows_noiommu(self) -> bool:
        return _is_on(self.modules[_CORE]["enable_unsafe_noiommu_mode"])

    def lacks_iommu(self, function: PciFunction) -> bool:
        """Whether its DMA goes to physical addresses. That of a mediated device goes where its driver lets it."""
        return not function.is_mediated and not (self._iommu and function.behind_iommu)

    def is_noiommu(self, group: int) -> bool:
        """Whether the group was made for a function without an IOMMU."""
        return any(self.lacks_iommu(function) for function in self.members(group))

    def note_driver(self, function: PciFunction) -> None:
        """A driver may have taken a function. The kernel is tainted for good once VFIO has one without an IOMMU."""
        if function.driver is not None:
            self._probed.add(function.address)
        if function.driver == VFIO_DRIVER and self.lacks_iommu(function):
            self.tainted |= TAINT_USER

    def node(self, group: int) -> str:
        """The name in /dev/vfio of the group with this number."""
        return f"noiommu-{group}" if self.is_noiommu(group) else f"{group}"

    def covers(self, path: str) -> bool:
        """Whether a path is the simulation's, not the running kernel's."""
        return path.startswith(_COVERED)

    def function_of_disk(self, path: str) -> PciFunction | None:
        """The function that the disk with the node at path belongs to."""
        name = path.removeprefix("/dev/")
        return next((each for each in self._functions.values() if name in each.disks), None)

    def members(self, group: int) -> list[PciFunction]:
        return [each for each in self._functions.values() if each.group == group and not self._awaits_group(each)]

    def _awaits_group(self, function: PciFunction) -> bool:
        """Whether the IOMMU core has not looked at a function yet, because no driver has been probed for it.

        Source: drivers/iommu/iommu.c, iommu_bus_notifier; drivers/pci/pci-driver.c, pci_dma_configure.
        """
        return self._groups_at_bind and function.address not in self._probed and not self.lacks_iommu(function)

    def has_node(self, group: int) -> bool:
        """Whether /dev/vfio/GROUP exists: a member is in the VFIO driver's hands."""
        return any(function.driver == VFIO_DRIVER for function in self.members(group))

    def viable(self, group: int) -> bool:
        """Whether no host driver keeps the group from being used."""
        return not any(function.in_host_hands for function in self.members(group))

    def is_claimed_by_firmware(self, group: int) -> bool:
        """Whether firmware claims memory for the group, so that nobody may use it.

        Source: drivers/iommu/iommu.c, require_direct.
        """
        return any(function.direct for function in self.members(group))

    def _reserved_regions(self, group: int) -> str:
        """The text of the group's reserved_regions."""
        if not self.members(group):
            raise fail(errno.ENOENT)
        members = [function for function in self.members(group) if not self.lacks_iommu(function)]
        spans = [(span, "direct") for function in members for span in function.direct]
        spans += [(span, "reserved") for function in members for span in function.reserved]
        spans += self._regions_of_iommu if members else ()
        return "".join(f"{first:#018x} {last:#018x} {kind}\n" for (first, last), kind in sorted(spans))

    def nodes(self) -> dict[str, str]:
        """The names in /dev/vfio/devices, with the address of each device."""
        return {name: address for name, address in self._vfio_devices().items() if self._has_own_node(address)}

    def _vfio_devices(self) -> dict[str, str]:
        """The names that VFIO has for devices, with the address of each."""
        bound = [function for _, function in sorted(self._functions.items()) if function.driver == VFIO_DRIVER]
        return {
            f"{'noiommu-' if self._noiommu_cdev and self.lacks_iommu(function) else ''}vfio{number}": function.address
            for number, function in enumerate(bound)
        }

    def _has_own_node(self, address: str) -> bool:
        return self._cdev and (self._noiommu_cdev or not self.lacks_iommu(self._functions[address]))

    def open(self, path: str, flags: int) -> File:
        """What opening a path gives. A file that is only to be written is looked for when it is."""
        is_read = flags & os.O_ACCMODE != os.O_WRONLY
        return Attribute(self, path, self.read(path).encode() if is_read else b"")

    def read(self, path: str) -> str:
        parent, _, name = path.rpartition("/")
        if name in self.modules.get(parent, {}):
            return self.modules[parent][name] + "\n"
        if parent.startswith(_GROUPS) and name == "name" and self.is_noiommu(int(parent.rpartition("/")[2])):
            return "vfio-noiommu\n"
        if parent.startswith(_GROUPS) and name == "reserved_regions":
            return self._reserved_regions(int(parent.rpartition("/")[2]))
        function = self._functions.get(parent.rpartition("/")[2])
        if not parent.startswith(_DEVICES) or function is None:
            raise fail(errno.ENOENT)
        match name:
            case "vendor":
                return f"{function.vendor_id:#06x}\n"
            case "device":
                return f"{function.device_id:#06x}\n"
            case "class":
                return f"{function.class_code:#08x}\n"
            case "numa_node":
                return "-1\n"
            case "secondary_bus_number" if function.header_type == 1:
                return "1\n"
            case "sriov_numvfs" if self._virtual_functions(function):
                return f"{len(self._virtual_functions(function))}\n"
            case "driver_override":
                return f"{function.override or '(null)'}\n"
            case _:
                raise fail(errno.ENOENT)

    def write(self, path: str, text: str) -> None:
        """Do what writing text to a file does."""
        parent, _, name = path.rpartition("/")
        text = text.strip()
        if path == "/sys/bus/pci/drivers_probe":
            # Only writing to a driver's own bind fails when the probe does.
            function = self._function(text)
            with suppress(OSError):
                self._probe(function)
        elif name in self.modules.get(parent, {}):
            self.modules[parent][name] = text
        elif name == "driver_override" and parent.rpartition("/")[2] in self._functions:
            self._functions[parent.rpartition("/")[2]].override = text or None
        elif name == "remove" and parent.rpartition("/")[2] in self._functions and parent.startswith(_DEVICES):
            if text == "1":
                function = self._function(parent.rpartition("/")[2])
                self._unbind(function)
                del self._functions[function.address]
                self._probed.discard(function.address)
        elif name in ("bind", "unbind") and parent.rpartition("/")[2] in self._drivers():
            driver, function = parent.rpartition("/")[2], self._function(text)
            if name == "unbind" and function.driver == driver:
                self._unbind(function)
            elif name == "bind" and function.driver is None:
                self._probe(function, driver)
            else:
                raise fail(errno.ENODEV)
        else:
            raise fail(errno.ENOENT)

    def listdir(self, path: str) -> list[str]:
        path = path.rstrip("/")
        parts = path.removeprefix(_GROUPS).strip("/").split("/")
        groups = sorted({each.group for each in self._functions.values() if not self._awaits_group(each)})
        if path == _DEVICES:
            return sorted(address for address, function in self._functions.items() if not function.is_mediated)
        if path == _DRIVERS:
            return sorted(self._drivers())
        if path in _CLASSES:
            return sorted(self._class_links(path))
        if path == _UNITS:
            return [self._iommu_unit.rpartition("/")[2]] if self._iommu_unit else []
        if path == "/sys/class":
            return sorted(each.rpartition("/")[2] for each in (_UNITS, *_CLASSES))
        if path == _GROUPS:
            return [str(group) for group in groups]
        if path == _VFIO:
            devices = ["devices"] if self.nodes() else []
            return [*devices, "vfio", *(self.node(group) for group in groups if self.has_node(group))]
        if path in self.modules:
            return sorted(self.modules[path])
        if path.startswith(_GROUPS) and parts[0].isdigit() and parts[1:] == ["devices"] and int(parts[0]) in groups:
            return sorted(function.address for function in self.members(int(parts[0])))
        if path == f"{_VFIO}/devices" and self.nodes():
            return sorted(self.nodes())
        if (function := self._functions.get(path.removeprefix(f"{_DEVICES}/"))) and path.startswith(_DEVICES):
            return sorted(self._attributes(function))
        for name, address in self._vfio_devices().items():
            if path == f"{_DEVICES}/{address}/vfio-dev":
                return [name]
            if path == f"{_DEVICES}/{address}/vfio-dev/{name}":
                return ["dev"] if self._has_own_node(address) else []
        raise fail(errno.ENOENT)

    def readlink(self, path: str) -> str:
        parent, _, name = path.rpartition("/")
        if parent in _CLASSES and name in self._class_links(parent):
            return self._class_links(parent)[name]
        if self._iommu_unit and path == f"{_UNITS}/{self._iommu_unit.rpartition('/')[2]}":
            return f"../../devices/{self._iommu_unit}"
        function = self._functions.get(parent.rpartition("/")[2])
        if function is not None and name == "iommu_group" and self._has_group(function):
            return f"../../../kernel/iommu_groups/{function.group}"
        if function is not None and name.startswith("virtfn") and name in self._attributes(function):
            return f"../{self._virtual_functions(function)[int(name.removeprefix('virtfn'))]}"
        if function is not None and name == "driver" and function.driver:
            return f"../../../bus/pci/drivers/{function.driver}"
        raise fail(errno.ENOENT)

    def _attributes(self, function: PciFunction) -> Iterator[str]:
        """The names in the directory of a function."""
        yield from ("vendor", "device", "class", "numa_node", "driver_override")
        if function.header_type == 1:
            yield "secondary_bus_number"
        if function.driver:
            yield "driver"
        if self._has_group(function):
            yield "iommu_group"
        if function.driver == VFIO_DRIVER:
            yield "vfio-dev"
        if virtual := self._virtual_functions(function):
            yield "sriov_numvfs"
            yield from (f"virtfn{number}" for number in range(len(virtual)))

    def _virtual_functions(self, function: PciFunction) -> list[str]:
        """The addresses of a function's virtual functions, sorted."""
        return sorted(each.address for each in self._functions.values() if each.physical_function == function.address)

    def _has_group(self, function: PciFunction) -> bool:
        """Whether a function is in a group: with an IOMMU, or because VFIO has made one for it."""
        has_iommu = not self.lacks_iommu(function) and not self._awaits_group(function)
        return function.driver == VFIO_DRIVER or has_iommu

    def owner(self, path: str) -> tuple[int, int]:
        """User and group of a node of /dev/vfio: root's until somebody gives it away, and again once it was gone."""
        self._owners = {each: owner for each, owner in self._owners.items() if self._is_node(each)}
        if not self._is_node(path):
            raise fail(errno.ENOENT)
        return self._owners.get(path, (0, 0))

    def device_number(self, path: str) -> str:
        """The number of a node of /dev/vfio: "char 10:196" of the container's, another of each other one."""
        self.owner(path)
        name = path.rpartition("/")[2]
        return "char 10:196" if name == "vfio" else f"char 511:{name.lstrip('noimu-vf')}"

    def chown(self, path: str, user: int, group: int) -> None:
        """Give a node of /dev/vfio to a user and a group; -1 leaves either as it is."""
        now = self.owner(path)
        self._owners[path] = (now[0] if user == -1 else user, now[1] if group == -1 else group)

    def _is_node(self, path: str) -> bool:
        directory, _, name = path.rpartition("/")
        return directory.startswith(_VFIO) and name in self.listdir(directory)

    def _class_links(self, path: str) -> dict[str, str]:
        """The links of a class of devices, by name. Host drivers make them: others' functions have none."""
        return {
            name: f"../../devices/pci0000:00/{function.address}/{path.rpartition('/')[2]}/{name}"
            for function in self._functions.values()
            if function.driver == function.host_driver
            for name in _CLASSES[path](function)
        }

    def _function(self, address: str) -> PciFunction:
        if address not in self._functions:
            raise fail(errno.ENODEV)
        return self._functions[address]

    def _drivers(self) -> set[str]:
        return {VFIO_DRIVER} | {function.host_driver for function in self._functions.values() if function.host_driver}

    def _unbind(self, function: PciFunction) -> None:
        """Take its driver off a function. VFIO's waits until nobody has the device open."""
        if function.driver == VFIO_DRIVER:
            self.release_device(function.address)
        function.driver = None

    def _probe(self, function: PciFunction, driver: str | None = None) -> None:
        driver = function.override or driver or function.host_driver
        matches = driver != VFIO_DRIVER or function.override == VFIO_DRIVER
        if function.driver is None and driver in self._drivers() and matches:
            # Its DMA is set up before the driver is asked, and stays so.
            self._probed.add(function.address)
            if driver in function.drivers_refusing or (driver == VFIO_DRIVER and not self._takes(function)):
                raise fail(errno.EINVAL)
            function.driver = driver
            self.note_driver(function)

    def _takes(self, function: PciFunction) -> bool:
        """Whether the probe of vfio-pci succeeds.

        Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_register_device.
        """
        return function.header_type == 0 and (self.allows_noiommu or not self.lacks_iommu(function))


class Attribute(Text):
    """An open file of sysfs: writing to it is an action."""

    def __init__(self, sysfs: Sysfs, path: str, content: bytes) -> None:
        super().__init__(content)
        self._sysfs = sysfs
        self._path = path

    def write(self, data: bytes) -> int:
        self._sysfs.write(self._path, data.decode())
        return len(data)


def _release_nothing(address: str) -> None:
    """Of a machine whose devices nobody can open."""
    del address


def _is_on(parameter: str) -> bool:
    return parameter[:1] in ("1", "Y", "y")
