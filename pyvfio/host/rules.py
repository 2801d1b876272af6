"""udev rules that say who may open a device's nodes, and which driver gets it at every boot.

A rule names the device by its address and its ids, never by the number of its group, which another boot may give to
another device. Each device has a file of its own, which also keeps what the device and its nodes were before. Of two
files with one name udev reads one: the file that lasts until the next boot has another name, and has the last word.
"""

from __future__ import annotations

import grp
import json
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from errno import EINVAL
from pathlib import Path

from pyvfio.errors import InvalidArgument
from pyvfio.host.binding import Binding

_FOR_GOOD, _UNTIL_BOOT, _SUFFIX = "70-pyvfio-", "71-pyvfio-", ".rules"
_BEFORE = "# before: "
_OWNERS = "# owners: "
_OWNER = "# owner: "


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom nodes are given to.

    user: the user, by name or number. uid: the user's number. group: the group, by name or number; None to leave the
    group of a node as it is. gid: the group's number; -1 to leave it.
    """

    user: str
    uid: int
    group: str | None = None
    gid: int = -1

    @classmethod
    def parse(cls, text: str) -> Owner:
        """The owner that text names: "USER" or "USER:GROUP", by name or number.

        Raises InvalidArgument if there is no user or group of that name.
        """
        user, _, group = text.partition(":")
        try:
            uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
        except KeyError:
            raise InvalidArgument(EINVAL, f"--owner {text}", meaning=f"there is no user {user}") from None
        if not group:
            return cls(user, uid)
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise InvalidArgument(EINVAL, f"--owner {text}", meaning=f"there is no group {group}") from None
        return cls(user, uid, group, gid)

    def __str__(self) -> str:
        """The owner as chown takes it: "USER" or "USER:GROUP"."""
        return self.user if self.group is None else f"{self.user}:{self.group}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A file of udev rules for one device.

    path: where the file is. text: what is in it. before: what the device was before the first rule for it. owner: whom
    its nodes are given to, as chown takes it; None if it does not say. owners: the user and group that its nodes had
    before, of those that were there: of its "group" and of the "device" itself.
    """

    path: Path
    text: str
    before: Binding
    owner: str | None = None
    owners: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def _reload() -> None:
    """Have udev read its rules anew, if the host has udev."""
    # udev looks by itself too, but only every few seconds.
    program = shutil.which("udevadm")
    if program:
        subprocess.run([program, "control", "--reload"], check=False, capture_output=True)


@dataclass(frozen=True, slots=True)
class RuleDirectories:
    """The directories in which udev looks for rules.

    until_boot: the one that the next boot empties. for_good: the one that lasts. reload: makes udev read them anew.
    """

    until_boot: Path = Path("/run/udev/rules.d")
    for_good: Path = Path("/etc/udev/rules.d")
    reload: Callable[[], None] = _reload

    def rule(
        self,
        before: Binding,
        driver: str | None,
        owner: Owner | None,
        owners: Mapping[str, tuple[int, int]] | None = None,
    ) -> Rule:
        """The rule for a device; it is not written yet.

        before: the state of the device, which the rule keeps unless an earlier rule for the device has kept one.
        driver: the driver that gets the device at every boot; None for none: then the rule lasts until the next boot.
        owner: who may open the device's nodes; None to say nothing of that. owners: whose the nodes are now, kept
        likewise. Raises ValueError, OSError, as find() does.
        """
        directory, prefix = (self.until_boot, _UNTIL_BOOT) if driver is None else (self.for_good, _FOR_GOOD)
        known = next(iter(self.find(before.address)), None)
        if known is not None:
            before, owners = known.before, {**(owners or {}), **known.owners}
        path = directory / f"{prefix}{before.address}{_SUFFIX}"
        return _parsed(path, _text(before, driver, owner, owners or {}))

    def find(self, address: str | None = None) -> list[Rule]:
        """The rules in the directories, of the device at address or of all devices.

        Raises ValueError for a file that pyvfio bind has not made, OSError for one that cannot be read.
        """
        places = ((self.until_boot, _UNTIL_BOOT), (self.for_good, _FOR_GOOD))
        paths = [path for each, prefix in places for path in sorted(each.glob(f"{prefix}{address or '*'}{_SUFFIX}"))]
        return [_parsed(path, path.read_bytes().decode(errors="replace")) for path in paths]

    def for_boot(self, address: str) -> list[Rule]:
        """The rules of the device at address that last until the next boot. Raises ValueError, OSError, as find()."""
        return [rule for rule in self.find(address) if rule.path.parent == self.until_boot]

    @contextmanager
    def changed(self, written: Sequence[Rule] = (), removed: Sequence[Rule] = ()) -> Iterator[None]:
        """Write rules and remove others. If that or the block that follows fails, all files are put back as they were.

        Raises OSError if a file cannot be changed.
        """
        former = {rule.path: _read(rule.path) for rule in (*written, *removed)}
        try:
            for rule in written:
                _write(rule.path, rule.text)
            for rule in removed:
                rule.path.unlink(missing_ok=True)
            if former:
                self.reload()
            yield
        except BaseException:
            for path, text in former.items():
                _write(path, text)
            if former:
                self.reload()
            raise


def writes_of(written: Sequence[Rule] = (), removed: Sequence[Rule] = ()) -> Iterator[str]:
    """The lines of a shell script that does what RuleDirectories.changed() does."""
    for rule in written:
        yield f"mkdir -p {rule.path.parent}"
        yield f"cat > {rule.path} << 'END'\n{rule.text}END"
    for rule in removed:
        yield f"rm {rule.path}"
    if written or removed:
        yield "udevadm control --reload"


def _text(before: Binding, driver: str | None, owner: Owner | None, owners: Mapping[str, tuple[int, int]]) -> str:
    """What is in the file of a device's rules. driver, owner and owners: as for RuleDirectories.rule()."""
    address = before.address
    vendor, _, device = (before.ids or "").partition(":")
    alias = f"pci:v{vendor.upper():0>8}d{device.upper():0>8}sv"
    lines = [
        f"# Made by pyvfio bind; pyvfio restore {address} takes it away.",
        f"{_BEFORE}{json.dumps(asdict(before))}",
    ]
    if owners:
        lines.append(f"{_OWNERS}{json.dumps(owners)}")
    if driver is not None:
        lines.append(
            f'ACTION=="add", SUBSYSTEM=="pci", KERNEL=="{address}", ATTR{{modalias}}=="{alias}*", '
            f'ATTR{{driver_override}}="{driver}", RUN{{builtin}}+="kmod load {driver}", '
            f"RUN+=\"/bin/sh -c 'echo {address} > /sys/bus/pci/drivers_probe'\""
        )
    if owner is not None:
        lines.append(f"{_OWNER}{owner}")
        assign = f'OWNER="{owner.user}"' + ("" if owner.group is None else f', GROUP="{owner.group}"')
        member = f'TEST=="/sys/kernel/iommu_groups/%k/devices/{address}"'
        is_it = f'PROGRAM=="/bin/grep -q ^{alias} /sys/bus/pci/devices/{address}/modalias"'
        lines.append(f'SUBSYSTEM=="vfio", {member}, {is_it}, {assign}')
        lines.append(f'SUBSYSTEM=="vfio-dev", KERNELS=="{address}", ATTRS{{modalias}}=="{alias}*", {assign}')
    return "\n".join(lines) + "\n"


def _parsed(path: Path, text: str) -> Rule:
    """The rule that text is. Raises ValueError for the text of a file that pyvfio bind has not made."""
    notes = {}
    for line in text.split("\n"):
        for name in (_BEFORE, _OWNERS, _OWNER):
            if line.startswith(name):
                notes[name] = line.removeprefix(name)
    if _BEFORE not in notes:
        raise ValueError(f"{path} does not say what the device was before: it is not of pyvfio bind")
    try:
        owners = {str(node): (int(uid), int(gid)) for node, (uid, gid) in json.loads(notes.get(_OWNERS, "{}")).items()}
        before = Binding.from_data(json.loads(notes[_BEFORE]))
    except (TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} does not say what the device and its nodes were before: {error}") from error
    return Rule(path, text, before, notes.get(_OWNER), owners)


def _read(path: Path) -> str | None:
    """The text of a file; None if there is no file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _write(path: Path, text: str | None) -> None:
    """Replace a file by one with this text, so that the old or the new one is whole; remove it if text is None."""
    if text is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
