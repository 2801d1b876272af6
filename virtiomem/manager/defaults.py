"""RegionRequest and RegionDefaults: a device to serve as people ask for it, and what holds where they say nothing."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

from pyvfio.errors import InvalidArgument
from pyvfio.kernel import Kernel
from pyvfio.texts import number_of, shortened
from pyvfio.units import parse_size
from virtiomem.control import check_name
from virtiomem.persistence import state_file
from virtiomem.planner import Limits, plan
from virtiomem.vhost_user import ServedRegionOptions

_SIZES: Final = {
    "region": "region_size",
    "block-size": "block_size",
    "requested": "requested_size",
    "address": "address",
    "page-size": "page_size",
    "file-offset": "file_offset",
}
PROPERTIES: Final = (*_SIZES, "name", "node", "ring", "record")
"""The keys that RegionRequest.parse() knows."""
FIRST_ADDRESS: Final = 0x1_0000_0000
"""Guest-physical, where the first region begins if nobody says where."""


@dataclass(frozen=True, slots=True)
class RegionRequest:
    """A device that somebody wants served. Sizes and addresses are bytes; None is what RegionDefaults says.

    path: the vhost-user socket. name: the device's. node_id, packed, file_offset: as ServedRegionOptions has them.
    record: the file that the trace of what the guest asks goes to; None for no trace.
    """

    path: str
    name: str | None = None
    region_size: int | None = None
    block_size: int | None = None
    requested_size: int | None = None
    address: int | None = None
    page_size: int | None = None
    file_offset: int | None = None
    node_id: int | None = None
    packed: bool = True
    record: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """SOCKET[,KEY=VALUE...] as it stands on a command line. Raises ValueError, in words."""
        path, *words = text.split(",")
        if not path:
            raise ValueError("the socket has no name")
        sizes: dict[str, int] = {}
        own: dict[str, str] = {}
        for word in words:
            key, separator, value = word.partition("=")
            if not separator or key not in PROPERTIES:
                raise ValueError(f"{shortened(word)} is none of {', '.join(f'{key}=…' for key in PROPERTIES)}")
            if key in _SIZES:
                sizes[_SIZES[key]] = parse_size(value)
            if key == "ring" and value not in ("split", "packed"):
                raise ValueError(f"a ring is split or packed, not {shortened(value)}")
            if key == "node" and ((number := number_of(value)) is None or not 0 <= number < 1 << 16):
                raise ValueError(f"a node is a number, not {shortened(value)}")
            own[key] = value
        return cls(
            path=path,
            name=own.get("name"),
            node_id=int(own["node"]) if "node" in own else None,
            packed=own.get("ring") != "split",
            record=own.get("record"),
            **sizes,
        )


@dataclass(frozen=True, slots=True)
class RegionDefaults:
    """What holds for the devices of a server where a RegionRequest says nothing. Sizes and addresses are bytes.

    region_size, page_size, file_offset: None if a request must say it, or for the host's pages, or for a file of the
    region's own. block_size: None for the smallest that fits, as plan() says. address: of the first region; None for
    4 GiB. The others follow one after the other. requested_size, discard, persistent_suspend, prealloc_threads,
    reclaim_interval: as ServedRegionOptions has them. state: the directory in which devices outlive the process; None:
    they do not.
    """

    region_size: int | None = None
    block_size: int | None = None
    requested_size: int = 0
    address: int | None = None
    page_size: int | None = None
    file_offset: int | None = None
    discard: bool = False
    persistent_suspend: bool = False
    prealloc_threads: int = 1
    state: Path | None = None
    reclaim_interval: float | None = None

    def options(
        self,
        request: RegionRequest,
        name: str,
        others: Sequence[ServedRegionOptions],
        *,
        kernel: Kernel,
        containers: int,
        spaces: int,
    ) -> ServedRegionOptions:
        """What to serve for request, without its trace.

        name: the device's, if request has none. others: what is served, or is to be, beside it. containers: how many
        address spaces have a limit of mappings, of so many spaces. Raises InvalidArgument for what makes no sense or
        cannot be beside the others, and what plan() raises.
        """
        name = request.name or name
        check_name(name)
        region_size = self.region_size if request.region_size is None else request.region_size
        if region_size is None:
            raise InvalidArgument(
                errno.EINVAL,
                f"serve {name}",
                meaning=f"how large is the region of {request.path}?",
                advice=f"Say --region SIZE, or {request.path},region=SIZE",
            )
        page_size = self.page_size if request.page_size is None else request.page_size
        block_size = request.block_size or self.block_size
        if not block_size:
            limits = Limits.of_host(page_size=page_size, kernel=kernel)
            if not containers:
                limits = replace(limits, mappings=None)
            block_size = plan(region_size, limits=limits, address_spaces=spaces).block_size
        # What somebody asks for is not rounded to something else.
        given = self.address if request.address is None and not others else request.address
        address = _rounded(_behind(others), block_size) if given is None else given
        if not address:
            raise InvalidArgument(
                errno.EINVAL,
                f"serve {name}",
                meaning=f"{name} cannot be at address 0: a guest boots from the memory there",
                advice="Without --address it is at 4G",
            )
        options = ServedRegionOptions(
            path=request.path,
            name=name,
            address=address,
            region_size=region_size,
            block_size=block_size,
            requested_size=self.requested_size if request.requested_size is None else request.requested_size,
            page_size=page_size,
            node_id=request.node_id,
            packed=request.packed,
            file_offset=self.file_offset if request.file_offset is None else request.file_offset,
            discard=self.discard,
            persistent_suspend=self.persistent_suspend,
            prealloc_threads=self.prealloc_threads,
            state=None if self.state is None else state_file(self.state, name),
            reclaim_interval=self.reclaim_interval,
        )
        check_beside(options, others)
        return options


def check_beside(options: ServedRegionOptions, others: Sequence[ServedRegionOptions]) -> None:
    """Raises InvalidArgument unless options have a name, a socket and addresses that none of others has."""
    operation = f"serve {options.name}"
    for what, mine, taken in (
        ("name", options.name, [other.name for other in others]),
        ("path", options.path, [other.path for other in others]),
    ):
        if mine in taken:
            meaning = f"every device has a {what} of its own, and {mine} is there twice"
            raise InvalidArgument(errno.EEXIST, operation, meaning=meaning)
    for left, right in pairwise(sorted((*others, options), key=lambda each: each.address)):
        if right.address < left.address + left.region_size:
            fitting = _rounded(_behind(others), options.block_size)
            raise InvalidArgument(
                errno.EEXIST,
                operation,
                meaning=f"{left.name} and {right.name} overlap at {right.address:#x}: regions of one server have "
                f"addresses of their own",
                advice=f"{options.name} fits at address={fitting:#x}; a guest with nothing to do with the other's may "
                "as well have a server of its own",
            )


def _behind(regions: Sequence[ServedRegionOptions]) -> int:
    """The first address behind all of these regions."""
    return max((region.address + region.region_size for region in regions), default=FIRST_ADDRESS)


def _rounded(address: int, block_size: int) -> int:
    return -(-address // block_size) * block_size
