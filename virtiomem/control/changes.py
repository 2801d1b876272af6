"""ChangesClient: what a client of a server asks it to add and to remove."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

from pyvfio.errors import VfioError
from virtiomem.control.space_status import ManagedSpace
from virtiomem.control.status import DeviceStatus


class ChangesClient(ABC):
    """Adds address spaces and devices to a server that runs, and removes them. All raise ControlRefused, with what the
    server says, where nothing has changed; and VfioError if the server has ended.
    """

    @abstractmethod
    def ask(self, command: str, arguments: Mapping[str, object], descriptors: Sequence[int] = ()) -> dict[str, object]:
        """Send a command of the protocol with its arguments and descriptors, and return its result."""

    def spaces(self) -> list[ManagedSpace]:
        """The address spaces that plugged blocks are mapped into just now."""
        found = self.ask("spaces", {}).get("spaces")
        if not isinstance(found, list):
            raise _other_protocol("spaces")
        return [_space_of("spaces", space) for space in found]

    def add_space(
        self, devices: Sequence[str], *, kind: Literal["container", "iommufd"] = "container", name: str | None = None
    ) -> ManagedSpace:
        """Have the server open devices, in one address space, and map all that is plugged for them.

        devices: PCI addresses, or names of network interfaces, of devices bound to VFIO. kind: whether they come with
        their groups, or by their own nodes. name: what the address space is called (default: as its first device).
        """
        return self._added({"kind": kind, "devices": list(devices)}, (), name)

    def lend_container(
        self, fd: int, *, iommu_type: Literal["type1", "type1v2"] = "type1v2", name: str | None = None
    ) -> ManagedSpace:
        """Have all that is plugged mapped into a container of this process, whose devices do not become the server's.

        fd: its descriptor, which stays the caller's. iommu_type: what this process gave VFIO_SET_IOMMU. The container
        has a group in it. The addresses of the regions are the server's to map as long as it has the container:
        remove_space() it before the last group leaves, and before lending it again. What the server maps is pinned and
        charged to the server.
        """
        return self._added({"kind": "container", "iommu_type": iommu_type}, (fd,), name)

    def lend_iommufd(self, fd: int, *, ioas_id: int | None = None, name: str | None = None) -> ManagedSpace:
        """Have all that is plugged mapped into an IOAS of this process's iommufd.

        fd: the iommufd's descriptor, which stays the caller's. ioas_id: the number of the IOAS; None: the server makes
        one, whose number is in the answer, for this process to attach its devices to. It goes with the address space,
        unless a device is attached. What the server maps is pinned when a device is attached, and charged to the user
        of the server.
        """
        return self._added({"kind": "iommufd", "ioas_id": ioas_id}, (fd,), name)

    def remove_space(self, name: str) -> None:
        """Have all regions unmapped from an address space, and what the server opened for it closed."""
        self.ask("remove-space", {"name": name})

    def add_device(
        self,
        socket: str,
        *,
        name: str | None = None,
        region_size: int | None = None,
        block_size: int | None = None,
        requested_size: int | None = None,
        address: int | None = None,
        page_size: int | None = None,
        file_offset: int | None = None,
        node: int | None = None,
        ring: Literal["packed", "split"] = "packed",
        record: str | None = None,
    ) -> DeviceStatus:
        """Have a device served at a vhost-user socket, and return its state.

        socket, record: whole paths, of the socket and of a file for the trace. Sizes and addresses are bytes; None is
        what the server was started with, and the first address behind all regions. node: the NUMA node of the region.
        ring: whether packed rings are offered, too.
        """
        arguments = {
            "name": name,
            "region_size": region_size,
            "block_size": block_size,
            "requested_size": requested_size,
            "address": address,
            "page_size": page_size,
            "file_offset": file_offset,
            "node": node,
            "record": record,
        }
        given = {key: value for key, value in arguments.items() if value is not None}
        devices = self.ask("add-device", {"socket": socket, "ring": ring, **given}).get("devices")
        if not isinstance(devices, list) or len(devices) != 1:
            raise _other_protocol("add-device")
        try:
            return DeviceStatus.from_data(devices[0])
        except ValueError as error:
            raise _other_protocol("add-device") from error

    def remove_device(self, device: str, *, yes: bool = False) -> None:
        """Have a device served no more. What its guest has plugged stays the guest's.

        yes: even if a guest whose front end is connected has blocks plugged, which it can then give back to nobody
        until the device is added again.
        """
        self.ask("remove-device", {"device": device, "yes": yes})

    def reset_device(self, device: str, *, yes: bool = False) -> int:
        """Have all that a guest which has ended had plugged unplugged, and its memory given back to the host.

        Returns how many bytes were plugged. The device goes on, for the next guest. yes: what is in the memory is lost,
        and that is meant. Refused while a front end is connected.
        """
        size = self.ask("reset-device", {"device": device, "yes": yes}).get("bytes")
        if not isinstance(size, int):
            raise _other_protocol("reset-device")
        return size

    def _added(self, arguments: Mapping[str, object], descriptors: Sequence[int], name: str | None) -> ManagedSpace:
        given = {key: value for key, value in (*arguments.items(), ("name", name)) if value is not None}
        return _space_of("add-space", self.ask("add-space", given, descriptors).get("space"))


def _space_of(operation: str, data: object) -> ManagedSpace:
    if not isinstance(data, dict):
        raise _other_protocol(operation)
    try:
        return ManagedSpace.from_data(data)
    except ValueError as error:
        raise _other_protocol(operation) from error


def _other_protocol(operation: str) -> VfioError:
    return VfioError(errno.EPROTO, operation, meaning="the manager speaks another protocol")
