"""KeptSpace: an address space that outlives the process, by the descriptors of what was opened for it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Self

from pyvfio.container import Container, Group, IommuType, SharedContainer
from pyvfio.device import Device
from pyvfio.errors import VfioError
from pyvfio.iommufd import CdevDevice, Ioas, Iommufd, SharedIoas
from pyvfio.kernel import Kernel
from virtiomem.persistence import DescriptorStore
from virtiomem.spaces.open_space import OpenSpace, SpaceKind


@dataclass(frozen=True, slots=True)
class KeptGroup:
    """A Group. descriptor: the name of its descriptor."""

    number: int
    is_noiommu: bool
    descriptor: str


@dataclass(frozen=True, slots=True)
class KeptMember:
    """A Device. group: its group's number; None for a device of its own node. id: its number in the iommufd; 0 without
    one. descriptor: the name of its descriptor."""

    address: str
    group: int | None
    id: int
    descriptor: str


@dataclass(frozen=True, slots=True)
class KeptSpace:
    """An OpenSpace, as a DescriptorStore has it.

    descriptor: the name of the container's or the iommufd's. iommu_type: the number of the container's IommuType; 0 for
    an iommufd. name, kind, ioas_id, is_lent: as OpenSpace has them.
    """

    name: str
    kind: str
    descriptor: str
    iommu_type: int
    ioas_id: int | None
    is_lent: bool
    groups: tuple[KeptGroup, ...] = ()
    devices: tuple[KeptMember, ...] = ()

    @classmethod
    def of(cls, space: OpenSpace, store: DescriptorStore) -> Self:
        """Have the descriptors of space kept in store, until dropped(). Raises VfioError, with nothing kept."""
        with ExitStack() as undo:

            def keep(fd: int, kind: str) -> str:
                name = store.keep(fd, kind)
                undo.callback(store.drop, name)
                return name

            inner = space.space
            if isinstance(inner, Container):
                descriptor, iommu_type = keep(inner.fd, "container"), int(inner.iommu_type or 0)
                groups = tuple(
                    KeptGroup(group.number, group.is_noiommu, keep(group.fd, "group")) for group in inner.groups
                )
            elif isinstance(inner, Ioas):
                descriptor, iommu_type, groups = keep(inner.iommufd.fd, "iommufd"), 0, ()
            else:
                raise VfioError(errno.EOPNOTSUPP, f"keep {space.name}", meaning="it has no descriptor")
            devices = tuple(
                KeptMember(
                    device.address,
                    None if device.group is None else device.group.number,
                    device.id if isinstance(device, CdevDevice) else 0,
                    keep(device.fd, "device"),
                )
                for device in space.devices
            )
            undo.pop_all()
        kind = space.kind.value
        return cls(space.name, kind, descriptor, iommu_type, space.ioas_id, space.is_lent, groups, devices)

    @property
    def descriptors(self) -> tuple[str, ...]:
        """The names of all descriptors, in the order in which they are let go."""
        return (
            *(device.descriptor for device in self.devices),
            *(group.descriptor for group in self.groups),
            self.descriptor,
        )

    def data(self) -> dict[str, object]:
        """As values of JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> Self:
        """What data() gave. Raises VfioError (EPROTO) for what it cannot have given."""
        try:
            values = dict(data)
            groups = [KeptGroup(**group) for group in values.pop("groups")]  # type: ignore[attr-defined]
            devices = [KeptMember(**device) for device in values.pop("devices")]  # type: ignore[attr-defined]
            return cls(groups=tuple(groups), devices=tuple(devices), **values)  # type: ignore[arg-type]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            meaning = f"it is damaged: {type(error).__name__}: {error}"
            raise VfioError(errno.EPROTO, "kept address space", meaning=meaning) from error

    def dropped(self, store: DescriptorStore) -> None:
        """The descriptors need not be kept any more. Raises nothing."""
        for name in self.descriptors:
            store.drop(name)

    def taken_up(self, store: DescriptorStore, kernel: Kernel) -> OpenSpace:
        """The address space as the process before has left it, with all that is mapped there.

        Each descriptor is used once. Raises VfioError if one is not there, or of another kind; nothing stays open then.
        """
        with ExitStack() as stack:
            undo = stack.enter_context(ExitStack())

            def use(name: str) -> int:
                fd = store.use(name)
                undo.callback(store.drop, name)
                return fd

            space: Container | Ioas
            if self.kind == SpaceKind.CONTAINER:
                space, devices = self._container(use, kernel, stack)
            else:
                space, devices = self._iommufd(use, kernel, stack)
            undo.pop_all()
            return OpenSpace(
                self.name,
                space,
                stack.pop_all(),
                kind=SpaceKind(self.kind),
                devices=devices,
                ioas_id=self.ioas_id,
                is_lent=self.is_lent,
                is_taken_up=True,
            )

    def _container(self, use: Callable[[str], int], kernel: Kernel, stack: ExitStack) -> tuple[Container, list[Device]]:
        kind = SharedContainer if self.is_lent else Container
        iommu_type = IommuType(self.iommu_type) if self.iommu_type else None
        container = kind.from_fd(use(self.descriptor), kernel=kernel, iommu_type=iommu_type)
        stack.callback(container.close)
        with leaving_on_failure(container):
            groups = {
                group.number: Group.from_fd(
                    use(group.descriptor),
                    group.number,
                    kernel=kernel,
                    container=container,
                    is_noiommu=group.is_noiommu,
                )
                for group in self.groups
            }
            devices = [
                Device(use(device.descriptor), device.address, kernel=kernel, group=groups[device.group])
                for device in self.devices
                if device.group is not None
            ]
        return container, devices

    def _iommufd(self, use: Callable[[str], int], kernel: Kernel, stack: ExitStack) -> tuple[Ioas, list[Device]]:
        if self.ioas_id is None:
            raise VfioError(errno.EPROTO, f"take up {self.name}", meaning="the number of its IOAS was not kept")
        iommufd = stack.enter_context(Iommufd.from_fd(use(self.descriptor), kernel=kernel))
        with leaving_on_failure(iommufd):
            if self.is_lent:
                return stack.enter_context(SharedIoas(iommufd, self.ioas_id)), []
            space = Ioas.from_id(iommufd, self.ioas_id)
            devices: list[Device] = [
                CdevDevice.from_fd(
                    iommufd,
                    use(device.descriptor),
                    device.address,
                    parent=space,
                    bound_as=device.id,
                    attached_to=space,
                )
                for device in self.devices
            ]
        return space, devices


@contextmanager
def leaving_on_failure(opened: Container | Iommufd) -> Iterator[None]:
    """What the with block raises closes this process's copies of opened, and changes nothing."""
    try:
        yield
    except BaseException:
        opened.hand_over()
        raise
