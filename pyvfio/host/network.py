"""What the host uses its network interfaces for. The kernel is asked by netlink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pyvfio.host import rtnetlink
from pyvfio.texts import printable

_UP, _LOWER_UP = 0x1, 0x10000
_MAIN_TABLES = (0, 254)
_UNICAST = 1


@dataclass(frozen=True, slots=True)
class InterfaceUse:
    """What a network interface is used for.

    name: the interface. link: whether it has an established link. addresses: its addresses, "192.0.2.1/24". routes: the
    destinations of the routes through it; "default" is one. master: the bridge or bond that it is in; None for none.
    """

    name: str
    link: bool
    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    master: str | None = None

    @property
    def shown(self) -> str:
        """The name, fit to be printed: the kernel takes any character for one but blanks, slashes and colons."""
        return printable(self.name)

    @property
    def reasons(self) -> list[str]:
        """Why the host would miss the interface: a phrase for each reason, none if it would not."""
        reasons = []
        if "default" in self.routes:
            reasons.append("carries the default route")
        elif self.routes:
            reasons.append(f"carries the route to {', '.join(self.routes)}")
        if self.addresses:
            reasons.append(f"has the address {', '.join(self.addresses)}")
        if self.link:
            reasons.append("has an established link" + (f" in {printable(self.master)}" if self.master else ""))
        return [f"{self.shown} {reason}" for reason in reasons]


class Network(Protocol):
    """What tells what network interfaces are used for."""

    def use(self, interface: str) -> InterfaceUse:
        """What an interface is used for; nothing if it does not exist. Raises OSError if the question fails."""


class LinuxNetwork:
    """The network namespace of this process in the running kernel. Holds no state: each question opens a socket."""

    def use(self, interface: str) -> InterfaceUse:
        """What an interface is used for; nothing if it does not exist. Raises OSError if the question fails."""
        links = {link.name: link for link in rtnetlink.links()}
        if interface not in links:
            return InterfaceUse(interface, link=False)
        link = links[interface]
        addresses = {address.text for address in rtnetlink.addresses() if address.index == link.index}
        routes = {
            route.destination
            for route in rtnetlink.routes()
            if link.index in route.indexes and route.kind == _UNICAST and route.table in _MAIN_TABLES
        }
        return InterfaceUse(
            interface,
            link=bool(link.flags & _UP and link.flags & _LOWER_UP),
            addresses=tuple(sorted(addresses)),
            routes=tuple(sorted(routes)),
            master=next((each.name for each in links.values() if each.index == link.master), None),
        )
