"""Network interfaces, their addresses and routes, as the kernel's routing socket tells them."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_NETLINK_ROUTE = 0
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_GET_LINK, _GET_ADDRESS, _GET_ROUTE = 18, 22, 26
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEXT_HOP = struct.Struct("=HBBi")
_IFLA_IFNAME, _IFLA_MASTER = 3, 10
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 9, 15
# Bytes of the buffer for a message: the kernel makes smaller ones of the answers to such a dump.
_LARGEST = 1 << 16

Attributes = Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface.

    index: its number. name: its name. flags: IFF_* of linux/if.h. master: the index of the bridge or bond that it is
    in; None for none.
    """

    index: int
    name: str
    flags: int
    master: int | None


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a network interface.

    index: the interface's. text: the address and the length of its prefix, "192.0.2.7/24".
    """

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Route:
    """A route.

    indexes: those of the interfaces that it leads through, several for a multipath route. destination: the network that
    it leads to, "192.0.2.0/24", or "default". kind: RTN_* of linux/rtnetlink.h. table: the number of the routing table.
    """

    indexes: tuple[int, ...]
    destination: str
    kind: int
    table: int


def links() -> list[Link]:
    """Every interface of this network namespace. Raises OSError if the kernel does not answer."""
    found = []
    for head, attributes in _dump(_GET_LINK, _LINK):
        master = attributes.get(_IFLA_MASTER)
        name = os.fsdecode(attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0"))
        found.append(Link(head[2], name, head[3], struct.unpack("=I", master)[0] if master else None))
    return found


def addresses() -> list[Address]:
    """Every address of this network namespace. Raises OSError if the kernel does not answer."""
    found = []
    for head, attributes in _dump(_GET_ADDRESS, _ADDRESS):
        # On a point-to-point link the local address is the interface's, and the other one the peer's.
        raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        if raw:
            found.append(Address(head[4], f"{ipaddress.ip_address(raw)}/{head[1]}"))
    return found


def routes() -> list[Route]:
    """Every route of this network namespace, of every table. Raises OSError if the kernel does not answer."""
    found = []
    for head, attributes in _dump(_GET_ROUTE, _ROUTE):
        indexes = [struct.unpack("=i", attributes[_RTA_OIF])[0]] if _RTA_OIF in attributes else []
        indexes += _next_hops(attributes.get(_RTA_MULTIPATH, b""))
        raw = attributes.get(_RTA_DST)
        table = struct.unpack("=I", attributes[_RTA_TABLE])[0] if _RTA_TABLE in attributes else head[4]
        destination = f"{ipaddress.ip_address(raw)}/{head[1]}" if raw else "default"
        found.append(Route(tuple(indexes), destination, head[7], table))
    return found


def _next_hops(data: bytes) -> Iterator[int]:
    """The index of the interface of each next hop. data: the value of a route's attribute for them."""
    while len(data) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(data)
        if length < _NEXT_HOP.size:
            return
        yield index
        data = data[_aligned(length) :]


def _dump(request: int, body: struct.Struct) -> Iterator[tuple[tuple[int, ...], Attributes]]:
    """Ask the kernel for everything of a kind; yield the fixed part and the attributes of each answer. Raises OSError.

    request: the type of the message that asks. body: the layout of the fixed part. Source: rtnetlink(7), netlink(7).
    """
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        size = _HEADER.size + body.size
        netlink.sendto(_HEADER.pack(size, request, _REQUEST | _DUMP, 1, 0) + bytes(body.size), (0, 0))
        while True:
            data, (sender, _) = netlink.recvfrom(_LARGEST)
            if sender != 0:
                continue
            while len(data) >= _HEADER.size:
                length, answer, _, _, _ = _HEADER.unpack_from(data)
                if answer == _DONE or length < _HEADER.size:
                    return
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", data, _HEADER.size)[0]
                    raise OSError(code, os.strerror(code))
                if length >= size:
                    yield body.unpack_from(data, _HEADER.size), _attributes(data[_aligned(size) : length])
                data = data[_aligned(length) :]


def _attributes(data: bytes) -> Attributes:
    """The values of a message's attributes, by type. data: what follows the fixed part."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[_aligned(length) :]
    return found


def _aligned(size: int) -> int:
    """size in bytes, rounded up as netlink aligns what follows."""
    return -(-size // 4) * 4
