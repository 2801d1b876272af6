"""Container: /dev/vfio/vfio with the type1 IOMMU, an AddressSpace."""

from __future__ import annotations

import ctypes
import errno
import os
import uuid
from collections.abc import Callable
from functools import partial
from typing import Self

from pyvfio.abi import vfio
from pyvfio.container.dirty import ContainerDirtyTracking
from pyvfio.container.group import Group, attach_failure, take_out
from pyvfio.container.info import (
    IommuInfo,
    IommuType,
    has_iommu,
    iommu_info,
    is_of_iommufd,
    require_container,
    set_iommu,
    without_iommu,
)
from pyvfio.container.live_update import LiveUpdate
from pyvfio.container.meanings import DETACH
from pyvfio.container.restorers import Restorers
from pyvfio.device import Device
from pyvfio.dma import MapCall, MappedRun, map_failure, tracks_already
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.explain import explain, is_refusal, no_iommu, open_failure
from pyvfio.kernel import Descriptor, Kernel, LinuxKernel, is_registered
from pyvfio.resource import Resource, require_kind
from pyvfio.sysfs import vfio_device


class Container(LiveUpdate):
    """The DMA address space of the groups that are attached to it. An AddressSpace.

    With path="/dev/iommu", or where iommufd provides /dev/vfio/vfio, it is a container of iommufd's compatibility. That
    kind has no mapping limit and no dirty tracking, and takes the addresses that a device reserves out of iova_ranges
    when the device is opened, not when its group is attached.

    Safe from several threads. A container has one lock, and each of its groups another one for itself and its devices:
    register accesses and interrupts do not wait for a long map_dma().

    kernel: the kernel that the container was opened in. descriptor: its descriptor. path: the node that it was opened
    from. iommu_type: the type that was chosen; None until the first group is attached.
    """

    def __init__(
        self,
        *,
        kernel: Kernel | None = None,
        path: str = "/dev/vfio/vfio",
        iommu_type: IommuType | None = None,
        fd: int | None = None,
    ) -> None:
        """iommu_type: which rules to ask for; None for type1v2 or, where there is none, type1. fd: a descriptor of path
        that is open already; see from_fd.

        Raises VfioError that says what is missing if the node cannot be opened.
        """
        self.kernel = kernel or LinuxKernel()
        self.path = path
        self.iommu_type: IommuType | None = None
        self._wanted = iommu_type
        self._info: IommuInfo | None = None
        self._is_info_old = False
        # Others may use the container beside this object, and keep it as it is.
        self._is_shared = fd is not None
        # How many mappings the kernel took when it had none; None if it did not say, or if others had chosen the IOMMU.
        self._limit: int | None = None
        # The groups that the kernel may have put behind the IOMMU for this object.
        self._entered: set[Group] = set()
        self._restorers = Restorers()
        try:
            opened = self.kernel.open(path, os.O_RDWR) if fd is None else fd
        except OSError as error:
            raise open_failure(
                error, "open container", path, "vfio", is_there=is_registered(self.kernel, path)
            ) from error
        self.descriptor = Descriptor(opened, f"container {path}", partial(self.kernel.close, opened))
        super().__init__()

    @classmethod
    def from_fd(cls, fd: int, *, kernel: Kernel | None = None, iommu_type: IommuType | None = None) -> Self:
        """A container from a descriptor that is open already, received from another process for example.

        Takes fd over: it is closed with the container, or here when this fails. iommu_type: the type that its owner has
        set; None if no group is attached yet. What its owner has mapped is not in mappings() until take_up() has found
        it, but unmap_everything() takes it back. Raises VfioError if fd is no container.
        """
        container = cls(kernel=kernel, path=f"fd {fd}", iommu_type=iommu_type, fd=fd)
        try:
            require_container(container.kernel, fd)
            if iommu_type is not None:
                container.iommu_type = iommu_type
                container._info = iommu_info(container.kernel, fd)
        except BaseException:
            container.close()
            raise
        return container

    @property
    def fd(self) -> int:
        """The number of the descriptor, which is the container's until it is closed."""
        return self.descriptor.number

    @property
    def name(self) -> str:
        """What messages call the container: by the numbers of its groups."""
        groups = ", ".join(str(group.number) for group in self.groups)
        return f"container of group {groups}" if groups else "container"

    def open_group(self, number: int) -> Group:
        """Open a group and attach it. It is the container's child. A failure leaves the group closed.

        Raises what Group and attach() raise.
        """
        self.require_open()
        # A child only when it is attached: what Ctrl-C keeps from getting a name here is dropped, and so closed.
        group = Group(number, kernel=self.kernel)
        try:
            self.attach(group)
        except BaseException:
            group.close()
            raise
        return group

    def open_device(self, address: str, *, vf_token: uuid.UUID | None = None) -> Device:
        """Open a device by its PCI address, with its group, which stays open as long as the container.

        vf_token: as for Group.open_device. Raises DeviceNotBound, GroupNotViable, GroupBusy, VfTokenRefused.
        """
        self.require_open()
        info = vfio_device(self.kernel, address)
        assert info.group is not None
        opened = {group.number: group for group in self.groups}
        group = opened.get(info.group) or self.open_group(info.group)
        try:
            device = group.open_device(info.address, vf_token=vf_token)
        except BaseException:
            if info.group not in opened:
                group.close()
            raise
        # iommufd's compatibility puts a device behind the IOMMU only now, and learns what it reserves.
        self._is_info_old = True
        return device

    def attach(self, group: Group) -> None:
        """Put the group's devices behind this container's IOMMU. The group is the container's child from now on. The
        first group also chooses the IOMMU type.

        What is mapped already is entered for the new group too, and what on_attach() was told to call is called. A
        failure leaves the group unattached, with the parent that it had, or of nobody if one of those has failed.
        Raises GroupNotViable, VfioError, and what those raise. Source: VFIO_GROUP_SET_CONTAINER, VFIO_SET_IOMMU.
        """
        require_kind(group, Group, "attach group")
        with self._lock, self._lock_of(group):
            self.require_open()
            group.require_viable()
            before, is_elsewhere, is_refused = (self.iommu_type, self._info, self._is_info_old), group.attached, False
            try:
                self._entered.add(group)
                try:
                    self.kernel.ioctl(group.fd, vfio.VFIO_GROUP_SET_CONTAINER, ctypes.c_int32(self.fd))
                except OSError as error:
                    if not is_refusal(error):
                        raise
                    is_refused = True
                    mixes = self.iommu_type is not None and (self.iommu_type is IommuType.NOIOMMU) != group.is_noiommu
                    raise attach_failure(error, group, self, mixes=mixes) from error
                self._require_iommu(group)
                self._is_info_old = False
                self._adopt(group)
            except BaseException as error:
                self.iommu_type, self._info, self._is_info_old = before
                if is_refused or is_elsewhere or take_out(group, error):
                    self._entered.discard(group)
                raise
        # Without a lock: they map, with locks of their own that come before this container's.
        try:
            self._restorers.call()
            self._require_attached(group)
        except BaseException as error:
            if not self.closed and group in self.groups:
                try:
                    self.detach(group)
                except VfioError as failure:
                    error.add_note(f"Taking group {group.number} out again failed too, it stays attached: {failure}")
            raise

    def _require_attached(self, group: Group) -> None:
        """Raise ClosedError or VfioError if one of those that map again has closed the container or the group, or taken
        the group out."""
        self.require_open()
        group.require_open()
        if group not in self.groups:
            meaning = "what on_attach() was told to call has taken it out again"
            raise VfioError(errno.ECANCELED, f"attach group {group.number}", meaning=meaning)

    def on_attach(self, restore: Callable[[], object]) -> None:
        """Have restore, a bound method, called whenever a group has been attached, before a device of it is opened.

        It may map again what went with the last group. What it raises refuses the group: it is taken out again, and
        attach() raises it. No lock of the container is held then. If it closes the container or the group, or takes the
        group out, attach() raises ClosedError or VfioError (ECANCELED). The method goes with its object, which this
        does not keep alive. Raises InvalidArgument for anything but a bound method.
        """
        self._restorers.add(restore)

    def detach(self, group: Group) -> None:
        """Take a group whose devices are all closed out of the container. It stays open, and is a child of nobody.

        Attach it again, here or elsewhere, or close it. As when a group is closed, mappings stay as long as another
        group is attached, here or by another process that has the container; all of them, and the choice of IOMMU type,
        go with the last group. A failure changes nothing.
        Raises InvalidArgument if the group is not in this container, DeviceBusy while a device of it is open.
        Source: VFIO_GROUP_UNSET_CONTAINER.
        """
        require_kind(group, Group, "detach group")
        with self._lock, self._lock_of(group):
            self.require_open()
            operation = f"detach group {group.number}"
            if group not in self.groups:
                raise InvalidArgument(errno.EINVAL, operation, meaning="it is not in this container")
            group.require_no_devices(operation)
            try:
                self.kernel.ioctl(group.fd, vfio.VFIO_GROUP_UNSET_CONTAINER)
            except OSError as error:
                # A detach() before may have been broken off after the kernel's answer.
                if error.errno != errno.EINVAL or group not in self._entered or group.attached:
                    raise explain(error, operation, {}, DETACH) from error
            self._let_go(group)
            self._entered.discard(group)
            self._group_gone()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that are attached, and those that were opened for the container and are not attached yet."""
        return tuple(child for child in self._children if isinstance(child, Group))

    @property
    def mappings_left(self) -> int | None:
        """How many more mappings the kernel takes; None if it sets no limit or, before Linux 5.10, does not say.

        It waits for no map_dma() of another thread. Raises VfioError while no group is attached.
        """
        self._known_info("mappings_left")
        with self.descriptor.in_use() as fd:
            return iommu_info(self.kernel, fd).mappings_left

    def track_dirty(self) -> ContainerDirtyTracking:
        """Begin to note which pages devices write; closing the result ends that. There is one at a time.

        type1v2 has no help from hardware: every page that is mapped reads as dirty, always.
        Raises DeviceBusy while there is one, VfioError where there is no dirty tracking: type1, and iommufd's
        compatibility.
        """
        with self._lock:
            info = self._layout("track_dirty")
            tracking = (child for child in self._children if isinstance(child, ContainerDirtyTracking))
            if any(child.is_on for child in tracking):
                raise tracks_already(self.name)
            page_size = info.dirty_page_size or info.page_sizes[0]
            return ContainerDirtyTracking(self, self.fd, page_size, info.largest_dirty_bitmap or 0)

    def hand_over(self) -> None:
        """Close it with its groups and devices, and change nothing: what is mapped stays, and devices go on.

        Another process that was passed their descriptors goes on with from_fd() and take_up(). The kernel undoes it all
        when the last copy of them is closed. A failure leaves it closed.
        """
        self._hand_over()

    @property
    def is_iommufd(self) -> bool:
        return is_of_iommufd(self.kernel, self.fd)

    @property
    def may_hold_mappings(self) -> bool:
        return self._is_shared or super().may_hold_mappings

    def _map_call(self, run: MappedRun) -> MapCall:
        return self._call(run, int(run.access))

    def _map_failure(
        self, error: OSError, run: MappedRun, iova: int | None, size: int, count: int, operation: str = "map_dma"
    ) -> VfioError:
        held, per_user = (count, self._limit), self.is_iommufd
        return map_failure(error, run, iova, size, self.kernel, held=held, per_user=per_user, operation=operation)

    def _unmap_ioctl(self, iova: int, size: int) -> int:
        # Source: drivers/vfio/vfio_iommu_type1.c, vfio_dma_do_unmap.
        argument = vfio.vfio_iommu_type1_dma_unmap(iova=iova, size=size)
        self.kernel.ioctl(self.fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)
        return argument.size

    def _unmap_everything_ioctl(self) -> int:
        argument = vfio.vfio_iommu_type1_dma_unmap(flags=vfio.VFIO_DMA_UNMAP_FLAG_ALL)
        self.kernel.ioctl(self.fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)
        return argument.size

    def _layout(self, operation: str) -> IommuInfo:
        info = self._known_info(operation)
        return self._ask_layout(operation) if self._is_info_old else info

    def _ask_layout(self, operation: str) -> IommuInfo:
        self._known_info(operation)
        info = iommu_info(self.kernel, self.fd)
        self._info, self._is_info_old = info, False
        return info

    def _known_info(self, operation: str) -> IommuInfo:
        """What the kernel told last. Raises ClosedError, and VfioError for a container without an IOMMU."""
        self.require_open()
        if self.iommu_type is IommuType.NOIOMMU:
            raise no_iommu(operation)
        if self._info is None:
            raise without_iommu(self.kernel, self.fd, operation)
        return self._info

    def _require_iommu(self, group: Group) -> None:
        """Have an IOMMU, chosen now if this is the first group, and know its layout. Raises VfioError."""
        if self.iommu_type is not None and not has_iommu(self.kernel, self.fd):
            # The last group has left unseen: in another process, or as an exception broke off what is done then.
            self._lose_iommu()
        is_chosen_here = self.iommu_type is None
        if self.iommu_type is None:
            self.iommu_type = set_iommu(self.kernel, self.fd, self._kinds(group), group.number)
        if self.iommu_type is not IommuType.NOIOMMU:
            self._info = iommu_info(self.kernel, self.fd)
            if is_chosen_here:
                self._limit = self._info.mappings_left

    def _kinds(self, group: Group) -> tuple[IommuType, ...]:
        """The types to ask for, for a group, in this order."""
        if group.is_noiommu:
            return (IommuType.NOIOMMU,)
        return (self._wanted,) if self._wanted else (IommuType.TYPE1v2, IommuType.TYPE1)

    def _child_closed(self, child: Resource) -> None:
        if isinstance(child, Group):
            self._entered.discard(child)
            self._group_gone()

    def _group_gone(self) -> None:
        # What the group alone reserved can be used now.
        self._is_info_old = self._info is not None
        if not self.groups and not self._is_kept_by_others():
            # With its last group the container loses its IOMMU: the next one has to choose it again.
            self._forget_mappings()
            self.iommu_type = self._info = None

    def _is_kept_by_others(self) -> bool:
        """Whether groups that other processes have put into the container keep its IOMMU, and with it all mappings."""
        if self._inherited or self.iommu_type is None:
            return False
        # iommufd keeps its address space whether there are groups or not, and does not tell of others'.
        return self._is_shared if self.is_iommufd else has_iommu(self.kernel, self.fd)

    def _forget_mappings(self) -> None:
        # type1 has dropped every mapping with the last group; iommufd's compatibility does not.
        try:
            if not self._inherited:
                self._unmap_all()
        except VfioError as error:
            # EINVAL: no IOMMU any more, so nothing is mapped.
            if error.errno != errno.EINVAL:
                raise
        self._lose_mappings()

    def _lose_iommu(self) -> None:
        """The kernel has dropped it, and every mapping with it."""
        self._lose_mappings()
        self.iommu_type = self._info = None

    def _release(self) -> None:
        try:
            self._forget_mappings()
        finally:
            self.descriptor.close()

    def __repr__(self) -> str:
        return f"<Container {self.path}{' closed' if self._closed else ''}>"
