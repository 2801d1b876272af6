"""What can be known of a binding before anything is unbound: that the probe will fail, or the group stays unusable.

Source of each rule: Linux, drivers/vfio/pci/vfio_pci.c and vfio_pci_core.c, drivers/vfio/vfio_main.c,
drivers/iommu/iommu.c.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

from pyvfio.device import no_answer
from pyvfio.errors import DeviceNotBound, InvalidArgument, VfioError
from pyvfio.kernel import Kernel, linux_release, text_or_empty
from pyvfio.noiommu import ENABLE
from pyvfio.reserved import firmware_claim
from pyvfio.sysfs import DEVICES, VIRTIO_IOMMU, GroupMember, PciDevice, blocking_members, iommu_kinds, pci_device
from pyvfio.texts import number_of

_NO_DENYLIST = "/sys/module/vfio_pci/parameters/disable_denylist"
_INTEL = 0x8086
# Intel QAT: C3XXX, C62X, DH895XCC and their virtual functions.
_DENIED = (0x19E2, 0x19E3, 0x37C8, 0x37C9, 0x0435, 0x0443)
# DSA and IAX of Sapphire Rapids. Stable kernels before 6.10 deny them only since some point release: it is not sure.
_DENIED_LATER = (0x0B25, 0x0CFE)
_DENIED_LATER_SINCE = (6, 10)

LOOK_AT_THE_LOG = "The kernel log says why: dmesg | grep {address}"


def require_probe(kernel: Kernel, device: PciDevice, driver: str) -> None:
    """Raise DeviceNotBound if driver is of VFIO and is sure to refuse the device, InvalidArgument for a bridge."""
    operation = f"bind {device.address}"
    if device.is_bridge:
        raise InvalidArgument(
            errno.EINVAL,
            operation,
            meaning="it is a bridge, which a group may leave to its own driver",
            advice="Bind the devices behind it",
        )
    if "vfio" not in driver or device.driver == driver:
        return
    if lacks_iommu(kernel, device):
        raise DeviceNotBound(
            errno.EINVAL,
            operation,
            meaning=f"{driver} will not take it: there is no IOMMU behind it",
            advice="pyvfio doctor says what is missing",
        )
    if driver == "vfio-pci" and _is_denied(kernel, device):
        raise DeviceNotBound(
            errno.EINVAL,
            operation,
            meaning=f"{driver} will not take it: its deny list has {device.vendor_id:04x}:{device.device_id:04x}, for "
            "errata that a user could exploit",
            advice="If its user is trusted: modprobe -r vfio-pci; modprobe vfio-pci disable_denylist=1",
        )
    if device.driver is None and (count := enabled_functions(kernel, device.address)):
        raise DeviceNotBound(
            errno.EBUSY,
            operation,
            meaning=f"{driver} will not take it: {count} virtual function{'s' * (count > 1)} of it "
            f"{'are' if count > 1 else 'is'} enabled",
            advice="As root give it back to its own driver, without which they cannot be ended: "
            f"echo {device.address} > /sys/bus/pci/drivers_probe; echo 0 > {DEVICES}/{device.address}/sriov_numvfs",
        )


def lacks_iommu(kernel: Kernel, device: PciDevice) -> bool:
    """Whether VFIO is sure to refuse the device for want of an IOMMU.

    A virtio-iommu makes a device's group only when its first driver binds: where there is one it is not known before.
    """
    if device.group is not None or text_or_empty(kernel, ENABLE)[:1] in ("1", "Y", "y"):
        return False
    return VIRTIO_IOMMU not in iommu_kinds(kernel)


def enabled_functions(kernel: Kernel, address: str) -> int:
    """How many virtual functions of the function at address are enabled."""
    text = text_or_empty(kernel, f"{DEVICES}/{address}/sriov_numvfs")
    return number_of(text) or 0


def why_refused(kernel: Kernel, device: PciDevice, driver: str) -> tuple[str, str]:
    """The cause of a probe that has failed, "" if it is not known, and what to do about it."""
    try:
        require_probe(kernel, device, driver)
    except VfioError as error:
        return error.meaning.partition(": ")[2] or error.meaning, error.advice
    if device.group is None and "vfio" in driver:
        return "there is no IOMMU behind it", "pyvfio doctor says what is missing"
    return "", LOOK_AT_THE_LOG.format(address=device.address)


def require_usable_groups(kernel: Kernel, addresses: Sequence[str]) -> None:
    """Raise VfioError if the kernel lets nobody use the group of a device, whatever its members are bound to."""
    for address in addresses:
        group = pci_device(kernel, address).group
        more = ". --force binds it all the same"
        if group is not None and (claim := firmware_claim(kernel, group, f"bind {address}", more)):
            raise claim


def warnings_about(kernel: Kernel, addresses: Sequence[str]) -> Iterator[str]:
    """A sentence for each reason why devices stay unusable although a VFIO driver takes them, with what to do about it.

    Reasons are a group that other members keep from being used, and a device that does not answer.
    """
    yield from _unusable_groups(kernel, addresses)
    for address in addresses:
        if is_dead(kernel, address):
            silent = no_answer(address)
            yield f"{address}: {silent.meaning}. {silent.advice}"


def is_dead(kernel: Kernel, address: str) -> bool:
    """Whether the device's config space can be read, and reads all ones. Reading it wakes a device that sleeps."""
    try:
        fd = kernel.open(f"{DEVICES}/{address}/config", os.O_RDONLY)
    except OSError:
        return False
    try:
        return kernel.read(fd, 4) == b"\xff" * 4
    except OSError:
        return False
    finally:
        kernel.close(fd)


def _unusable_groups(kernel: Kernel, addresses: Sequence[str]) -> Iterator[str]:
    """A sentence for each group of the devices that members beside them keep from being used."""
    groups: dict[int, str] = {}
    for address in addresses:
        group = pci_device(kernel, address).group
        if group is not None:
            groups.setdefault(group, address)
    for group, address in groups.items():
        left = [member for member in blocking_members(kernel, group) if member.address not in addresses]
        if not left:
            continue
        who = ", ".join(f"{member.address} is bound to {member.driver}" for member in left)
        yield f"group {group} cannot be used yet: {who}. {way_to_free(left, address)}"


def way_to_free(blocking: Sequence[PciDevice | GroupMember], address: str) -> str:
    """What to do about members that keep a group from being used, as a phrase. address: of a device of the group."""
    if all(isinstance(member, PciDevice) and not member.is_bridge for member in blocking):
        return f"pyvfio bind --group {address}"
    return "Take it from that driver: only VFIO drivers, pci-stub, pcieport and none leave a group usable"


def _is_denied(kernel: Kernel, device: PciDevice) -> bool:
    """Whether vfio-pci is sure to have the device in its deny list, and to heed the list."""
    # Where the module has no such parameter it has no list: before Linux 5.9.
    if device.vendor_id != _INTEL or text_or_empty(kernel, _NO_DENYLIST)[:1] not in ("0", "N", "n"):
        return False
    return device.device_id in _DENIED or (
        device.device_id in _DENIED_LATER and linux_release(kernel) >= _DENIED_LATER_SINCE
    )
