"""Bind, unbind and restore several devices as one change of the host, which can be undone even after a crash."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from pyvfio.errors import DeviceNotBound, HostNeedsDevice, InvalidArgument
from pyvfio.host import binding
from pyvfio.host.binding import Binding, Write
from pyvfio.host.foreseen import require_probe
from pyvfio.host.guard import reasons_to_keep
from pyvfio.host.network import Network
from pyvfio.host.nodes import owners_of, put_owners
from pyvfio.host.rules import RuleDirectories
from pyvfio.host.undo import UndoFile
from pyvfio.kernel import Kernel
from pyvfio.sysfs import group_members, pci_device


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to one device.

    before: the state of the device before. driver: the driver that it has afterwards; None for none, or if the host
    will choose one. writes: the writes to sysfs, in order. gone: whether the device does not exist any more, so that
    there is nothing to restore. replaced_by: what the device is that has its address now, "10de:1b06", and that is left
    alone; None for none.
    """

    before: Binding
    driver: str | None
    writes: tuple[Write, ...]
    gone: bool = False
    replaced_by: str | None = None


def require_expected(kernel: Kernel, addresses: Sequence[str], expected: str) -> None:
    """Raise InvalidArgument unless every device is the expected VENDOR:DEVICE.

    Addresses may move when hardware is added. Raises DeviceNotBound for a device that does not exist.
    """
    for address in addresses:
        device = pci_device(kernel, address)
        found = f"{device.vendor_id:04x}:{device.device_id:04x}"
        if found != expected.lower():
            raise InvalidArgument(
                errno.EINVAL, f"device {address}", meaning=f"it is {found}, not the {expected} that was expected"
            )


def require_not_needed(kernel: Kernel, network: Network, addresses: Sequence[str]) -> None:
    """Raise HostNeedsDevice, which says why, if the host or a program would miss the driver of any of the devices."""
    reasons = [
        f"{address}: {reason}"
        for address in addresses
        for reason in reasons_to_keep(kernel, network, pci_device(kernel, address))
    ]
    if reasons:
        raise HostNeedsDevice(
            errno.EBUSY, "take from the host", meaning="; ".join(reasons), advice="--force does it all the same"
        )


def plan_bind(kernel: Kernel, addresses: Sequence[str], driver: str) -> list[Change]:
    """The changes that bind devices to driver. Nothing is written.

    Raises DeviceNotBound if there is no such device or driver, or if the driver is sure to refuse the device,
    InvalidArgument for a bridge.
    """
    changes = []
    for address in addresses:
        device = pci_device(kernel, address)
        require_probe(kernel, device, driver)
        binding.require_driver(kernel, device.address, driver)
        before = binding.binding(kernel, device.address)
        changes.append(Change(before, driver, tuple(binding.bind_writes(before, driver))))
    return changes


def plan_unbind(kernel: Kernel, addresses: Sequence[str]) -> list[Change]:
    """The changes that take devices from their drivers. Nothing is written. Raises InvalidArgument, DeviceNotBound.

    The driver of each change is None: which one the host chooses is known only afterwards.
    """
    befores = (binding.binding(kernel, address) for address in addresses)
    return [Change(before, None, tuple(binding.unbind_writes(before))) for before in befores]


def plan_restore(kernel: Kernel, entries: Sequence[Binding]) -> list[Change]:
    """The changes that lead back to entries, the device that was changed last first. Nothing is written."""
    changes = []
    for entry in reversed(entries):
        try:
            now = binding.binding(kernel, entry.address)
        except DeviceNotBound:
            changes.append(Change(entry, None, (), gone=True))
            continue
        if entry.is_of(now):
            changes.append(Change(now, entry.driver, tuple(binding.restore_writes(now, entry))))
        else:
            changes.append(Change(entry, None, (), gone=True, replaced_by=now.ids))
    return changes


def perform(
    kernel: Kernel,
    changes: Sequence[Change],
    undo: UndoFile,
    step: Callable[[str], object],
    *,
    around: AbstractContextManager[object] | None = None,
    finish: Callable[[], object] = lambda: None,
) -> None:
    """Make the changes, or none: if one fails, the devices before it are given back too.

    step(address) makes one change: it is called for each that writes anything. finish() is called after the last, also
    if nothing was written. around is entered before the first step and left after finish(); it has to undo what it did
    if it is left with an exception. undo has every device before the first write, and forgets at the end the devices
    that are as they were. Raises what step, around and finish raise; a note says which device could not be given back.
    """
    changing = [change.before for change in changes if change.writes]
    owners = {before.address: owners_of(kernel, before.address) for before in changing}
    if changing:
        undo.remember(changing)
    done: list[Binding] = []
    try:
        with around or nullcontext():
            for before in changing:
                step(before.address)
                done.append(before)
            finish()
    except OSError as error:
        for before in reversed(done):
            _give_back(kernel, before, error, undo)
        for address, former in owners.items():
            _put_owners(kernel, address, former, error)
        _forget_what_is_restored(kernel, undo)
        raise
    # Not in a finally: if something else ends the process, the file has to say what is still to be restored.
    if changing:
        _forget_what_is_restored(kernel, undo)


def entries_to_restore(undo: UndoFile, rules: RuleDirectories) -> list[Binding]:
    """What each device was before anything was done to it, in the order in which they were changed.

    A rule knows better than undo, which the boot has emptied: what undo notes afterwards of a device that the rule has
    bound is no former state. Raises ValueError for a file that is none of ours, OSError.
    """
    first = {rule.before.address: rule.before for rule in rules.find()}
    entries = [first.pop(entry.address, entry) for entry in undo.read()]
    return [*entries, *first.values()]


def owners_to_restore(kernel: Kernel, address: str, rules: RuleDirectories) -> dict[str, tuple[int, int]]:
    """Whose the nodes of a device are without its own rules: as before them, and root's if it was not there then.

    A node of a group is left out that the rule of another member gives to somebody. Raises ValueError, OSError.
    """
    own = rules.find(address)
    if not any(rule.owner for rule in own):
        return {}
    before = {kind: owner for rule in own for kind, owner in rule.owners.items()}
    owners = {kind: before.get(kind, (0, 0)) for kind in ("group", "device")}
    if owner_by_another(kernel, [address], rules):
        del owners["group"]
    return owners


def owner_by_another(kernel: Kernel, addresses: Sequence[str], rules: RuleDirectories) -> dict[str, str]:
    """Whom the rules of other members of the devices' groups give the groups' nodes to, by the members' addresses."""
    groups = {group for address in addresses if (group := pci_device(kernel, address).group) is not None}
    members = {member.address for group in groups for member in group_members(kernel, group)}
    return {
        rule.before.address: rule.owner
        for rule in rules.find()
        if rule.owner and rule.before.address in members and rule.before.address not in addresses
    }


def perform_restore(
    kernel: Kernel, entries: Sequence[Binding], undo: UndoFile, rules: RuleDirectories | None = None
) -> dict[str, OSError]:
    """Put every device back as entries say, the one that was changed last first; return the failures, by address.

    A device that fails stays as it is, with its rules. undo forgets the others. rules: the directories from which the
    udev rules of the devices are removed; None for none.
    """
    failures: dict[str, OSError] = {}
    restored: list[str] = []
    for entry in reversed(entries):
        try:
            _restore(kernel, entry, rules)
        except OSError as error:
            failures[entry.address] = error
        else:
            restored.append(entry.address)
    if restored:
        undo.forget(restored)
    return failures


def _restore(kernel: Kernel, entry: Binding, rules: RuleDirectories | None) -> None:
    """Put one device back, with its nodes, and remove its rules. Raises OSError, with all as it is."""
    removed = rules.find(entry.address) if rules else []
    if _is_gone(kernel, entry):
        with rules.changed(removed=removed) if rules else nullcontext():
            return
    now = binding.binding(kernel, entry.address)
    former = owners_of(kernel, entry.address)
    owners = owners_to_restore(kernel, entry.address, rules) if rules else {}
    with rules.changed(removed=removed) if rules else nullcontext():
        try:
            binding.restore(kernel, entry)
            put_owners(kernel, entry.address, owners)
        except OSError as error:
            if binding.binding(kernel, entry.address) != now:
                _lead_back(kernel, now, error)
            _put_owners(kernel, entry.address, former, error)
            raise


def _lead_back(kernel: Kernel, before: Binding, error: OSError) -> None:
    try:
        binding.restore(kernel, before)
    except OSError as failure:
        error.add_note(f"{before.address} could not be given back to {before.driver or 'no driver'} ({failure})")


def _put_owners(kernel: Kernel, address: str, owners: Mapping[str, tuple[int, int]], error: OSError) -> None:
    """Give nodes back to whose they were, as a device that came back has new ones; a note of error says what failed."""
    try:
        put_owners(kernel, address, owners)
    except OSError as failure:
        error.add_note(str(failure))


def _is_gone(kernel: Kernel, entry: Binding) -> bool:
    """Whether the entry's device is not at its address any more: nothing is, or another device."""
    try:
        return not entry.is_of(binding.binding(kernel, entry.address))
    except DeviceNotBound:
        return True


def _give_back(kernel: Kernel, before: Binding, error: OSError, undo: UndoFile) -> None:
    try:
        binding.restore(kernel, before)
    except OSError as failure:
        error.add_note(
            f"{before.address} could not be given back to {before.driver or 'no driver'} ({failure}); "
            f"try again with pyvfio restore --undo-file {undo.path}"
        )


def _forget_what_is_restored(kernel: Kernel, undo: UndoFile) -> None:
    undo.forget([entry.address for entry in undo.read() if _is_as_before(kernel, entry)])


def _is_as_before(kernel: Kernel, entry: Binding) -> bool:
    """Whether a device is as entry says, or is gone, so that nothing can be done for it."""
    try:
        return _is_gone(kernel, entry) or binding.binding(kernel, entry.address) == entry
    except OSError:
        return False
