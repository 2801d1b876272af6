"""An iommufd in a container's place, and devices bound to it. Source: drivers/vfio/iommufd.c, group.c."""

from __future__ import annotations

import errno
from functools import partial

from pyvfio.sim.iommufd import FunctionDevice, IommufdContext
from pyvfio.sim.machine import IommuGroup
from pyvfio.sim.process import Process, fail
from pyvfio.sim.vfio.device import DeviceState
from pyvfio.sim.vfio.mappings import Translate
from pyvfio.sim.vfio.noiommu import reach_physical


class IommufdContainer:
    """What a group has for a container that was handed an iommufd."""

    keeps_devices = True
    """Whether a group may leave while devices of it are open."""

    def __init__(self, iommufd: IommufdContext) -> None:
        self._iommufd = iommufd

    def join(self, group: IommuGroup, _process: Process) -> None:
        """Make the compatible address space, if the group has an IOMMU. Raises OSError(EINVAL) beside one that has not,
        and the other way round."""
        iommufd = self._iommufd
        if group.is_noiommu:
            if iommufd.compatible is not None:
                raise fail(errno.EINVAL)
            iommufd.is_noiommu = True
        elif iommufd.is_noiommu:
            raise fail(errno.EINVAL)
        elif iommufd.compatible is None:
            iommufd.compatible = iommufd.new_ioas()
        iommufd.holders += 1

    def leave(self, _group: IommuGroup) -> None:
        self._iommufd.drop()

    def admit(self, device: DeviceState, process: Process) -> Translate:
        """The first descriptor of a device is being opened: where its DMA goes. Raises OSError as the kernel does."""
        iommufd = self._iommufd
        if iommufd.machine.lacks_iommu(device.address):
            process.require_raw_io()
            if iommufd.compatible is not None:
                raise fail(errno.EPERM)
            return partial(reach_physical, iommufd.machine.pages)
        bound = FunctionDevice(iommufd, device.address)
        try:
            if iommufd.compatible is None:
                raise fail(errno.ENODEV)
            bound.attach(iommufd.compatible.id)
        except OSError:
            bound.unbind()
            raise
        device.bound = bound
        return bound.translate

    def dismiss(self, device: DeviceState) -> None:
        """The last descriptor of a device is closed."""
        if device.bound is not None:
            device.bound.unbind()
            device.bound = None


def bind(iommufd: IommufdContext, device: DeviceState) -> FunctionDevice:
    """Bind a device through its own node; it is attached to nothing yet. Raises OSError as FunctionDevice does."""
    bound = FunctionDevice(iommufd, device.address)
    device.bound, device.iommufd = bound, iommufd
    device.translate = bound.translate
    if not bound.driver.translates:
        device.translate = partial(reach_physical, iommufd.machine.pages)
    return bound
