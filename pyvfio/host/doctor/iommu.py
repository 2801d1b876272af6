"""Checks of the IOMMU and its groups."""

from __future__ import annotations

from collections.abc import Iterator

from pyvfio.host.doctor.boot import boot_arguments, ends_remapping
from pyvfio.host.doctor.check import Check, Status
from pyvfio.host.doctor.cure import how_to_turn_on
from pyvfio.host.doctor.surroundings import hypervisor_fix, is_guest
from pyvfio.host.foreseen import way_to_free
from pyvfio.kernel import Kernel, names_in, text_or_empty
from pyvfio.reserved import firmware_claim
from pyvfio.sysfs import GROUPS, VIRTIO_IOMMU, blocking_members, group_members, iommu_kinds, is_noiommu, pci_devices
from pyvfio.texts import number_of

_ROOM = 6
_UNSAFE = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"


def check_iommu(kernel: Kernel) -> Check:
    """Whether an IOMMU translates for PCI devices, and which kind it is.

    Source: /sys/class/iommu, with an entry for each unit.
    """
    units = iommu_kinds(kernel)
    with_iommu = set(_groups(kernel)) - set(_groups_without(kernel))
    found = "on"
    if units:
        found = f"{', '.join(sorted(set(units)))}, {_count(len(units), 'unit')}"
    elif not with_iommu:
        return Check("iommu", Status.FAIL, "none: no DMA can be mapped", how_to_turn_on(kernel))
    functions = pci_devices(kernel)
    # Behind a virtio-iommu a function is in a group once it has had a driver.
    if VIRTIO_IOMMU not in units and functions and not any(each.group in with_iommu for each in functions):
        return Check(
            "iommu",
            Status.FAIL,
            f"{found}, but no PCI function is behind it: it translates for other devices only",
            hypervisor_fix(kernel)
            or "no setting of this kernel puts PCI devices behind it: take other hardware, or "
            "VFIO's unsafe mode (enable_unsafe_noiommu_mode of the module vfio)",
        )
    return Check("iommu", Status.OK, found)


def check_interrupt_remapping(kernel: Kernel) -> Check:
    """Whether a device can be kept from raising the interrupts of others.

    Source: the names of the interrupt chips in /proc/interrupts, which begin with IR- on x86 if it can. Elsewhere the
    interrupt controllers isolate devices, but for Arm's GICv2m.
    """
    name, interrupts = "interrupt remapping", text_or_empty(kernel, "/proc/interrupts")
    if not interrupts.strip():
        return Check(name, Status.SKIP, "cannot be seen here: /proc/interrupts is empty, as in some containers")
    if "IR-" in interrupts:
        return Check(name, Status.OK, "on")
    found = "off"
    if "APIC" not in interrupts:
        # One controller that isolates does not help the devices of the other.
        if "GICv2m" not in interrupts:
            return Check(name, Status.OK, "not an x86 interrupt controller: isolated by design")
        found = "none: the interrupt controller GICv2m does not tell devices apart"
    way = _remapping(kernel)
    if text_or_empty(kernel, _UNSAFE) in ("Y", "1"):
        return Check(
            name,
            Status.WARN,
            f"{found}, and allowed to be: a device can raise any interrupt of the host",
            "use trusted devices only" + (f", or {way}" if way else ""),
        )
    trusted = f"if every device is trusted: echo 1 > {_UNSAFE}"
    fix = f"{way}; {trusted}" if way else trusted
    return Check(name, Status.FAIL, f"{found}: containers refuse their IOMMU (EPERM)", fix)


def _remapping(kernel: Kernel) -> str:
    """What would give this host interrupt remapping, as a phrase; "" if nothing can."""
    if argument := ends_remapping(boot_arguments(kernel)):
        return f"boot without {argument}"
    if "GICv2m" in text_or_empty(kernel, "/proc/interrupts"):
        return "take a machine with a GICv3 and its ITS: QEMU -machine virt,gic-version=3" if is_guest(kernel) else ""
    if VIRTIO_IOMMU in iommu_kinds(kernel):
        # No virtio-iommu remaps interrupts of x86.
        return ""
    if is_guest(kernel):
        return "have the virtual IOMMU do it: QEMU -machine kernel-irqchip=split -device intel-iommu,intremap=on"
    return "turn it on in the firmware"


def check_groups(kernel: Kernel) -> Iterator[Check]:
    """How well groups isolate devices, and which groups cannot be used though a member is bound to a VFIO driver."""
    numbers = _groups(kernel)
    if not numbers:
        yield Check("groups", Status.FAIL, "none", "they appear with the IOMMU")
        return
    shared, spoiled, claimed = [], [], []
    for number in numbers:
        members = group_members(kernel, number)
        if len([member for member in members if not member.is_bridge]) > 1:
            shared.append(f"{number} ({len(members)} devices)")
        blocking = blocking_members(kernel, number)
        if blocking and any(member.has_vfio_driver for member in members):
            names = ", ".join(f"{member.address} {member.driver}" for member in blocking)
            bound = next(member.address for member in members if member.has_vfio_driver)
            spoiled.append((number, names, way_to_free(blocking, bound)))
        if any(member.has_vfio_driver for member in members) and (claim := firmware_claim(kernel, number, "")):
            claimed.append((number, claim))
    found = f"{_count(len(numbers), 'group')}, " + (f"shared: {_several(shared)}" if shared else "one device in each")
    yield Check("groups", Status.OK, found)
    for number, names, fix in spoiled:
        yield Check("groups", Status.FAIL, f"group {number} is not viable: {names}", fix)
    for number, claim in claimed:
        yield Check("groups", Status.FAIL, f"group {number} cannot be used: {claim.meaning}", claim.advice)


def check_noiommu(kernel: Kernel) -> Iterator[Check]:
    """Which devices are bound to a VFIO driver without an IOMMU behind them: see pyvfio.noiommu."""
    numbers = _groups_without(kernel)
    if numbers:
        members = [member.address for number in numbers for member in group_members(kernel, number)]
        yield Check(
            "noiommu",
            Status.WARN,
            f"{', '.join(members)}: VFIO has it without an IOMMU, so all of the host's memory is open to it, and the "
            "kernel is tainted",
            f"turn the IOMMU on; or as root: pyvfio unbind {' '.join(members)}, and boot anew to be rid of the taint",
        )


def _groups(kernel: Kernel) -> list[int]:
    """The numbers of all groups, smallest first."""
    return sorted(number for name in names_in(kernel, GROUPS) if (number := number_of(name)) is not None)


def _groups_without(kernel: Kernel) -> list[int]:
    """The numbers of the groups that VFIO has made for devices without an IOMMU."""
    return [number for number in _groups(kernel) if is_noiommu(kernel, number)]


def _several(words: list[str]) -> str:
    """The words, as many as a line has room for, and how many more there are."""
    more = len(words) - _ROOM
    return ", ".join(words[:_ROOM]) + (f" and {more} more" if more > 0 else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
