"""Which network interfaces the host talks through. Asked of the kernel by netlink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pyvfio.host import rtnetlink

_UP, _LOWER_UP = 0x1, 0x10000
_MAIN_TABLES = (0, 254)
_UNICAST = 1


@dataclass(frozen=True, slots=True)
class InterfaceUse:
    """What an interface is used for. routes: destinations, "default" among them; master: the bridge or bond above."""

    name: str
    link: bool
    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    master: str | None = None

    @property
    def reasons(self) -> list[str]:
        """Why the host would miss it; none if it would not."""
        reasons = []
        if "default" in self.routes:
            reasons.append("carries the default route")
        elif self.routes:
            reasons.append(f"carries the route to {', '.join(self.routes)}")
        if self.addresses:
            reasons.append(f"has the address {', '.join(self.addresses)}")
        if self.link:
            reasons.append("has an established link" + (f" in {self.master}" if self.master else ""))
        return [f"{self.name} {reason}" for reason in reasons]


class Network(Protocol):
    """Who can tell what interfaces are used for."""

    def use(self, interface: str) -> InterfaceUse:
        """An interface that does not exist is used for nothing. Raises OSError if the question fails."""


class LinuxNetwork:
    """The running kernel's network namespace. Each question is a socket of its own, closed again."""

    def use(self, interface: str) -> InterfaceUse:
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
