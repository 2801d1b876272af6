"""A host laid out as a directory tree, on which the real commands run.

fake_host.pci("0000:03:00.0", "8086:1521", 0x020000, driver="igb", group=12)
fake_host.driver("vfio-pci")
assert "igb -> vfio-pci" in fake_host.run("bind", "03:00.0").out
"""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pyvfio.cli import main as pyvfio
from pyvfio.host import Host, InterfaceUse, RuleDirectories, Uevent
from pyvfio.kernel import LinuxKernel
from virtiomem.cli import main as virtiomem

_OURS = ("/sys", "/proc", "/dev", "/run", "/etc", "/usr", "/lib", "/boot", "/var")
# These are the running process's own files, unless the tree has them.
_PROCESS = ("/proc/self/status", "/proc/self/limits", "/proc/self/pagemap")
_DEVICES = "/sys/bus/pci/devices"
_DRIVERS = "/sys/bus/pci/drivers"
_PROGRAMS = {"pyvfio": pyvfio, "virtiomem": virtiomem}


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended.

    status: its exit status. out, err: what it has printed on standard output and standard error.
    """

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that a user reads."""
        return self.out + self.err


@dataclass(slots=True)
class Driver:
    """A driver that is loaded.

    takes: the addresses of the devices that it takes if their driver_override names none. refuses: the addresses of
    those whose probe fails, and with which errno. makes_group: those that get an IOMMU group by being probed, as behind
    a virtio-iommu, and its number.
    """

    takes: set[str] = field(default_factory=set)
    refuses: dict[str, int] = field(default_factory=dict)
    makes_group: dict[str, int] = field(default_factory=dict)


class FakeHost:
    """A host that a test lays out with file(), link(), pci() and the others. at() says where each file of it is.

    drivers: those that are loaded, by name. errors: paths whose open() fails, and with which errno. exclusive: the
    nodes of disks that somebody uses, so that opening them exclusively fails. interfaces: what interfaces are used for,
    by name. owners: the user and group of nodes that are not root's. images: paths of regular files that programs have
    open; all others are nodes. kernel: the Kernel of this host. undo_file, rules: as those of Host.
    """

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root = root / "host"
        self.drivers: dict[str, Driver] = {}
        self.errors: dict[str, int] = {}
        self.exclusive: set[str] = set()
        self.interfaces: dict[str, InterfaceUse] = {}
        self.owners: dict[str, tuple[int, int]] = {}
        self.images: set[str] = set()
        self.has_groups = True
        """Whether VFIO makes nodes for groups."""
        self.kernel = TreeKernel(self)
        self.undo_file = root / "undo.json"
        self.rules = RuleDirectories(root / "run", root / "etc", reload=lambda: None)
        self._capture = capture
        for name in ("sys/kernel/iommu_groups", "sys/class/iommu", "sys/class/net", "sys/class/block", "dev/vfio"):
            (self.root / name).mkdir(parents=True)
        self.file("/proc/swaps", "Filename Type Size Used Priority\n")
        self.file("/proc/self/mountinfo", "22 1 0:25 / / rw - tmpfs tmpfs rw\n")
        self.file("/proc/cmdline", "quiet\n")
        self.file("/sys/bus/pci/drivers_probe", "")
        self.file("/dev/vfio/vfio", "")

    def run(self, *arguments: str, program: str = "pyvfio") -> Ran:
        """Run the command itself on this host."""
        host = Host(self.kernel, self, uevents=_no_events, undo_file=self.undo_file, rules=self.rules)
        try:
            status = _PROGRAMS[program](list(arguments), host)
        except SystemExit as end:
            status = int(end.code or 0)
        captured = self._capture.readouterr()
        return Ran(status, captured.out, captured.err)

    def use(self, interface: str) -> InterfaceUse:
        """What an interface is used for; nothing if interfaces does not have it."""
        return self.interfaces.get(interface, InterfaceUse(interface, link=False))

    # Laying out.

    def at(self, path: str) -> Path:
        """Where the file at a path of the host is."""
        return Path(f"{self.root}{path}")

    def file(self, path: str, text: str) -> None:
        """Make a file with text, and the directories that it is in."""
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)

    def link(self, path: str, target: str) -> None:
        """Make a link at path, or replace it. target: a path of the host."""
        at = self.at(path)
        at.parent.mkdir(parents=True, exist_ok=True)
        at.unlink(missing_ok=True)
        at.symlink_to(os.path.relpath(f"/{target}", f"/{Path(path).parent}"))

    def pci(
        self,
        address: str,
        ids: str = "1234:11e8",
        class_code: int = 0x00FF00,
        *,
        driver: str | None = None,
        group: int | None = None,
        below: str = "pci0000:00",
        header_type: int = 0,
        **files: str,
    ) -> str:
        """Add a PCI function; return its place in /sys/devices.

        ids: "VENDOR:DEVICE". driver: the driver that has it; None for none. group: the number of its IOMMU group.
        below: the place of its bus in /sys/devices. files: more attributes, by name.
        """
        place = f"/sys/devices/{below}/{address}"
        vendor, device = ids.split(":")
        standard = {
            "vendor": f"0x{vendor}",
            "device": f"0x{device}",
            "class": f"{class_code:#08x}",
            "driver_override": "(null)",
            "numa_node": "-1",
        }
        for name, text in {**standard, **files}.items():
            self.file(f"{place}/{name}", f"{text}\n")
        config = bytearray(64)
        config[:4] = int(vendor, 16).to_bytes(2, "little") + int(device, 16).to_bytes(2, "little")
        config[0x0E] = header_type
        self.at(f"{place}/config").write_bytes(config)
        self.link(f"{_DEVICES}/{address}", place)
        if group is not None:
            self.group(group, address)
        if driver is not None:
            self.driver(driver).takes.add(address)
            self.give(address, driver)
        return place

    def group(self, number: int, *members: str, reserved: str = "") -> None:
        """Put members into an IOMMU group. reserved: lines of its reserved_regions, beside that of the interrupts."""
        directory = f"/sys/kernel/iommu_groups/{number}"
        for address in members:
            place = self.at(f"{_DEVICES}/{address}").resolve().relative_to(self.root.resolve())
            self.link(f"/{place}/iommu_group", directory)
            self.link(f"{directory}/devices/{address}", f"/{place}")
        self.file(f"{directory}/reserved_regions", reserved + "0x00000000fee00000 0x00000000feefffff msi\n")

    def virtio(self, name: str, place: str, driver: str | None = None) -> str:
        """Make the virtio device of the function at place; return its own place. driver: the driver that has it."""
        self.link(f"/sys/bus/virtio/devices/{name}", f"{place}/{name}")
        self.file(f"{place}/{name}/status", "0x0000000f\n")
        if driver is not None:
            self.link(f"{place}/{name}/driver", f"/sys/bus/virtio/drivers/{driver}")
        return f"{place}/{name}"

    def virtio_iommu(self) -> None:
        """Put PCI functions behind a virtio-iommu, which is a function itself. Its unit is named after that."""
        address = "0000:00:01.0"
        place = self.virtio("virtio0", self.pci(address, "1af4:1057", 0x080600, driver="virtio-pci"), "virtio_iommu")
        self.file(f"{place}/iommu/{address}/devices/x", "")
        self.link(f"/sys/class/iommu/{address}", f"{place}/iommu/{address}")

    def driver(self, name: str) -> Driver:
        """Load a driver of PCI devices, unless it is; return it."""
        if name not in self.drivers:
            self.drivers[name] = Driver()
            for attribute in ("bind", "unbind", "new_id"):
                self.file(f"{_DRIVERS}/{name}/{attribute}", "")
        return self.drivers[name]

    def net(self, name: str, place: str) -> None:
        """Add a network interface of the function at place."""
        self.file(f"{place}/net/{name}/ifindex", "2\n")
        self.link(f"/sys/class/net/{name}", f"{place}/net/{name}")

    def disk(self, name: str, place: str, number: str, *, holders: tuple[str, ...] = (), in_use: bool = False) -> None:
        """Add a disk or partition below place. number: "MAJOR:MINOR". in_use: whether opening it exclusively fails."""
        self.file(f"{place}/{name}/dev", f"{number}\n")
        self.file(f"{place}/{name}/uevent", f"DEVNAME={name}\n")
        self.at(f"{place}/{name}/holders").mkdir(exist_ok=True)
        for holder in holders:
            self.file(f"{place}/{name}/holders/{holder}", "")
        if self.at(f"{place}/dev").exists():
            self.file(f"{place}/{name}/partition", "1\n")
        self.link(f"/sys/class/block/{name}", f"{place}/{name}")
        self.file(f"/dev/{name}", "")
        if in_use:
            self.exclusive.add(f"/dev/{name}")

    def node(self, subsystem: str, name: str, place: str, node: str) -> None:
        """Add a device that a driver has made of the function at place. node: its node, below /dev."""
        self.file(f"{place}/{subsystem}/{name}/uevent", f"MAJOR=1\nMINOR=1\nDEVNAME={node}\n")
        self.link(f"/sys/class/{subsystem}/{name}", f"{place}/{subsystem}/{name}")

    def process(self, pid: int, name: str, *nodes: str, mounts: str = "") -> None:
        """Add a program with nodes open. mounts: the mountinfo of a mount namespace of its own; empty for none."""
        self.file(f"/proc/{pid}/comm", f"{name}\n")
        links = {f"fd/{number}": node for number, node in enumerate(nodes)}
        if mounts:
            self.file(f"/proc/{pid}/mountinfo", mounts)
            links["ns/mnt"] = f"mnt:[{pid}]"
        for path, target in links.items():
            at = self.at(f"/proc/{pid}/{path}")
            at.parent.mkdir(parents=True, exist_ok=True)
            at.symlink_to(target)

    # What the kernel's driver core does.

    def driver_of(self, address: str) -> str | None:
        """The driver that a device is bound to; None for none."""
        link = self.at(f"{_DEVICES}/{address}/driver")
        return link.readlink().name if link.is_symlink() else None

    def override_of(self, address: str) -> str | None:
        """What a device's driver_override names; None for nothing."""
        text = self.at(f"{_DEVICES}/{address}/driver_override").read_text().strip()
        return None if text == "(null)" else text

    def give(self, address: str, driver: str) -> None:
        """Bind a device to a driver, as a probe that succeeds does."""
        device = f"{_DEVICES}/{address}"
        place = f"/{self.at(device).resolve().relative_to(self.root.resolve())}"
        self.link(f"{place}/driver", f"{_DRIVERS}/{driver}")
        group = self.at(f"{place}/iommu_group")
        if "vfio" in driver and group.is_symlink() and self.has_groups:
            self.file(f"/dev/vfio/{group.readlink().name}", "")

    def take(self, address: str) -> None:
        """Unbind a device. With the last member of a group that VFIO has goes the group's node."""
        self.at(f"{_DEVICES}/{address}/driver").unlink()
        group = self.at(f"{_DEVICES}/{address}/iommu_group")
        if group.is_symlink():
            members = (group / "devices").iterdir()
            if not any("vfio" in (self.driver_of(member.name) or "") for member in members):
                self.at(f"/dev/vfio/{group.readlink().name}").unlink(missing_ok=True)
                self.owners.pop(f"/dev/vfio/{group.readlink().name}", None)
        for node in self.at(f"{_DEVICES}/{address}/vfio-dev").glob("*"):
            self.owners.pop(f"/dev/vfio/devices/{node.name}", None)

    def probe(self, address: str, driver: str | None = None) -> None:
        """Have drivers probe a device; it is no error if none matches. Raises OSError as the driver's probe does."""
        prescribed = self.override_of(address)
        names = [prescribed or driver] if prescribed or driver else sorted(self.drivers)
        for name in names:
            if name not in self.drivers or (not prescribed and address not in self.drivers[name].takes):
                continue
            code = self.drivers[name].refuses.get(address, 0)
            if number := self.drivers[name].makes_group.get(address):
                self.group(number, address)
            if name == "vfio-pci" and not self.at(f"{_DEVICES}/{address}/iommu_group").is_symlink():
                code = code or errno.EINVAL
            if code:
                raise OSError(code, os.strerror(code))
            self.give(address, name)
            return


class TreeKernel(LinuxKernel):
    """The running kernel with the files of a FakeHost, on which writes do what the kernel's driver core does."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__()
        self._host = host
        self._opened: dict[int, str] = {}
        self.writes: list[tuple[str, str]] = []
        """The path and the text of each write to sysfs, in order."""
        self.refused_writes = 0
        """The errno that opening any file of sysfs for writing fails with; 0 if it does not."""

    def open(self, path: str, flags: int) -> int:
        if code := self._host.errors.get(path):
            raise OSError(code, os.strerror(code), path)
        if flags & os.O_ACCMODE == os.O_WRONLY and path.startswith("/sys/") and (code := self.refused_writes):
            raise OSError(code, os.strerror(code), path)
        if flags & os.O_EXCL and path in self._host.exclusive:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        fd = super().open(self._at(path), flags & ~os.O_EXCL)
        self._opened[fd] = path
        return fd

    def close(self, fd: int) -> None:
        self._opened.pop(fd, None)
        super().close(fd)

    def write(self, fd: int, data: bytes) -> int:
        path = self._opened.get(fd)
        if path is None or not path.startswith("/sys/"):
            return super().write(fd, data)
        self.writes.append((path, data.decode().strip()))
        self._store(path, data.decode().strip())
        return len(data)

    def listdir(self, path: str) -> list[str]:
        return super().listdir(self._at(path))

    def readlink(self, path: str) -> str:
        return super().readlink(self._at(path))

    def owner(self, path: str) -> tuple[int, int]:
        super().owner(self._at(path))
        return self._host.owners.get(path, (0, 0))

    def device_number(self, path: str) -> str:
        # What a program has open may have no name here.
        node = self.readlink(path) if path.startswith("/proc/") else f"/{self._resolved(path)}"
        number = self._host.at(f"/sys/class/block/{node.rpartition('/')[2]}/dev")
        if node in self._host.images:
            return ""
        return f"block {number.read_text().strip()}" if number.exists() else "char 1:1"

    def _resolved(self, path: str) -> Path:
        return Path(self._at(path)).resolve(strict=True).relative_to(self._host.root.resolve())

    def chown(self, path: str, user: int, group: int) -> None:
        if code := self._host.errors.get(path):
            raise OSError(code, os.strerror(code), path)
        now = self.owner(path)
        self._host.owners[path] = (now[0] if user == -1 else user, now[1] if group == -1 else group)

    def _at(self, path: str) -> str:
        is_ours = path.startswith(tuple(f"{each}/" for each in _OURS)) or path in _OURS
        at = self._host.at(path)
        return str(at) if is_ours and (path not in _PROCESS or at.exists()) else path

    def _store(self, path: str, text: str) -> None:
        directory, _, name = path.rpartition("/")
        driver = directory.rpartition("/")[2]
        if path == "/sys/bus/pci/drivers_probe":
            self._require(self._host.at(f"{_DEVICES}/{text}").exists())
            if self._host.driver_of(text) is None:
                # Only writing to a driver's own bind fails when the probe does.
                try:
                    self._host.probe(text)
                except OSError:
                    return
        elif directory.startswith(_DRIVERS) and name == "unbind":
            self._require(self._host.driver_of(text) == driver)
            self._host.take(text)
        elif directory.startswith(_DRIVERS) and name == "bind":
            self._require(self._host.driver_of(text) is None)
            self._host.probe(text, driver)
        else:
            self._host.at(path).write_text(f"{text or '(null)'}\n" if name == "driver_override" else f"{text}\n")

    @staticmethod
    def _require(condition: bool) -> None:
        if not condition:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


class _Silence:
    """The events of a kernel in which nothing happens."""

    def next(self, timeout: float | None = None) -> Uevent | None:  # noqa: ARG002
        return None


def _no_events() -> AbstractContextManager[_Silence]:
    return nullcontext(_Silence())


@pytest.fixture
def fake_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> FakeHost:
    """A host without devices, on which vfio-pci is loaded."""
    host = FakeHost(tmp_path, capsys)
    host.driver("vfio-pci")
    return host
