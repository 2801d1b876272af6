"""Which network interfaces the host talks through. Asked of the kernel by netlink (pyroute2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
        # Imported here: it takes longer than all else of a command, and few need it.
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            indexes = netlink.link_lookup(ifname=interface)
            if not indexes:
                return InterfaceUse(interface, link=False)
            (link,) = netlink.get_links(indexes[0])
            master = link.get("master")
            addresses = [
                f"{address.get('address')}/{address['prefixlen']}" for address in netlink.get_addr(index=indexes[0])
            ]
            routes = [
                f"{route.get('dst')}/{route['dst_len']}" if route.get("dst") else "default"
                for route in netlink.get_routes(oif=indexes[0])
                if route["type"] == _UNICAST and route["table"] in _MAIN_TABLES
            ]
            return InterfaceUse(
                interface,
                link=bool(link["flags"] & _UP and link["flags"] & _LOWER_UP),
                addresses=tuple(sorted(addresses)),
                routes=tuple(sorted(set(routes))),
                master=netlink.get_links(master)[0].get("ifname") if master else None,
            )
