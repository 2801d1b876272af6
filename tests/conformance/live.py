"""The cases that are safe on a host that people work on, asked of its own kernel beside the simulated one.

Safe: nothing of the host changes but what belongs to this process while it runs. No parameter of a module is written,
no device is bound or unbound, and none is touched but the one that the user named.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence

from pyvfio import GroupBusy, Kernel, LinuxKernel
from pyvfio.abi import vfio
from pyvfio.commandline import Failure
from pyvfio.container import Group
from pyvfio.host.doctor import Status
from pyvfio.host.doctor.iommu import check_interrupt_remapping
from pyvfio.kernel import exists
from pyvfio.sysfs import DEVICES, named_device
from tests.conformance.case import Case
from tests.conformance.machine import Edu, Machine, RealMachine, iommu_model
from tests.conformance.step import Step

_BY_ITSELF = (
    "allocate allow_iovas change_process charges check_extension close destroy dirty_pages discard end_child free "
    "get_api_version get_dirty_bitmap get_iommu_info in_child ioas_alloc ioas_copy ioas_map ioas_map_file ioas_unmap "
    "iova_ranges limit_memlock map_dma mlock open_container open_eventfd open_file open_iommufd open_memfd option "
    "punch set_dirty_tracking set_iommu spawn unknown_container_ioctl unknown_iommufd_ioctl unmap_dma unmap_dma_dirty "
    "vfio_ioas"
)
"""Steps that concern nobody but the process."""
_WITH_DEVICE = (
    "attach_pt bind detach_pt get_device_fd get_node_info get_status hw_info hwpt_alloc open_group open_node "
    "set_container unknown_group_ioctl unset_container"
)
"""Steps that take a device, whatever it is."""
_NEED_DEVICE = frozenset(_WITH_DEVICE.split())
_SAFE = _NEED_DEVICE | frozenset(_BY_ITSELF.split())
_FOR_EVERYBODY = {
    "set_type1_parameter": "it changes a parameter of a module, for every program",
    "unbind_driver": "it takes a device from its driver",
    "add_virtual": "it makes a virtual function",
    "drop_raw_io": "it is about devices without an IOMMU",
    "noiommu_get_pa": "it is about devices without an IOMMU",
    "tainted_by_user": "it is about devices without an IOMMU",
}
_TEST_DEVICE = "it is about a device that the virtual machine has"
_FILES = ("/dev/null", "/dev/zero")


def why_not(case: Case, *, has_device: bool, has_functions: bool = False) -> str:
    """Why a case is not for this host; empty if it is safe, and can be asked with the device there is, or without.

    has_functions: whether the device can have virtual functions, and so takes a token.
    """
    steps = [inner for step in (*case.setup, case.call, *(step for step, _ in case.after)) for inner in _all(step)]
    for step in steps:
        if step.name in _FOR_EVERYBODY:
            return _FOR_EVERYBODY[step.name]
    for step in steps:
        if step.name not in _SAFE:
            return _TEST_DEVICE
        if step.arguments.get("device", "0") != "0":
            return "it needs another device in another group"
        if has_functions and ("token" in step.arguments or "vf_token" in str(step.arguments.get("suffix", ""))):
            return "it is about a device that can have no virtual functions"
        if step.name == "open_file" and step.arguments.get("path", _FILES[0]) not in _FILES:
            return "it opens a file of the host"
    if not has_device and any(step.name in _NEED_DEVICE for step in steps):
        return "it needs a device: name one that is bound to VFIO and idle, with --device"
    return ""


def _all(step: Step) -> Iterator[Step]:
    """The step, and those it hands to another process."""
    yield step
    for value in step.arguments.values():
        if isinstance(value, Step):
            yield from _all(value)


class LiveMachine(RealMachine):
    """This host as it is. device: the one that cases may open."""

    def __init__(self, kernel: LinuxKernel, device: Edu | None) -> None:
        found = re.match(r"(\d+)\.(\d+)", os.uname().release)
        assert found is not None
        edus = {} if device is None else {"0": device}
        self.has_functions = device is not None and exists(kernel, f"{DEVICES}/{device.address}/sriov_totalvfs")
        Machine.__init__(self, kernel, (int(found[1]), int(found[2])), _model(kernel), edus, _features(kernel))


def idle_device(kernel: Kernel, name: str) -> Edu:
    """The device that the user named. Raises Failure unless it is bound to VFIO, and nobody has it or its group."""
    device = named_device(kernel, name)
    if not device.has_vfio_driver or device.group is None:
        raise Failure(f"{device.address} is not bound to VFIO: as root, pyvfio bind {device.address}")
    try:
        with Group(device.group, kernel=kernel) as group:
            if group.is_noiommu:
                raise Failure(f"{device.address} has no IOMMU behind it, and the cases are about what an IOMMU maps")
            group.require_viable()
    except GroupBusy:
        raise Failure(f"a program has group {device.group} open: end it first, or name another device") from None
    if check_interrupt_remapping(kernel).status is Status.FAIL:
        raise Failure("VFIO refuses every device while interrupts are not remapped; pyvfio doctor has the way out")
    return Edu(device.address, device.group)


def _model(kernel: Kernel) -> str:
    """Of the IOMMU that the simulated kernel is to have: the nearest where it has none of the kind."""
    try:
        return {"none": "virtio"}.get(model := iommu_model(kernel), model)
    except FileNotFoundError:
        return "virtio"


def _features(kernel: Kernel) -> set[str]:
    features = {"remapping" if check_interrupt_remapping(kernel).status is Status.OK else "no-remapping"}
    features |= {"cdev"} if exists(kernel, "/dev/vfio/devices") else set()
    features |= {"iommufd"} if _can_open(kernel, "/dev/iommu") else set()
    return features | _containers(kernel)


def _containers(kernel: Kernel) -> set[str]:
    """Whose containers are, the kernel's old ones or iommufd's, which tell nothing before they have a group."""
    try:
        fd = kernel.open("/dev/vfio/vfio", os.O_RDWR)
    except OSError:
        return set()
    try:
        has_type1 = kernel.ioctl(fd, vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_TYPE1v2_IOMMU)
        return {"type1"} if has_type1 else set()
    except OSError as error:
        return {"compat"} if error.errno == errno.ENODEV else set()
    finally:
        kernel.close(fd)


def _can_open(kernel: Kernel, path: str) -> bool:
    try:
        kernel.close(kernel.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def is_safe(steps: Sequence[Step]) -> bool:
    """Whether a host that people work on may take them all."""
    return all(inner.name in _SAFE for step in steps for inner in _all(step))
