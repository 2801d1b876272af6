"""What the routing socket says, beside what pyroute2 reads from it."""

from __future__ import annotations

import os

import pytest
from pyroute2 import IPRoute

from pyvfio.host import LinuxNetwork, rtnetlink


def test_links_addresses_and_routes_are_those_of_pyroute2() -> None:
    with IPRoute() as other:
        links = {(link["index"], link.get("ifname"), link["flags"], link.get("master")) for link in other.get_links()}
        addresses = {
            (each["index"], f"{each.get('IFA_LOCAL') or each.get('address')}/{each['prefixlen']}")
            for each in other.get_addr()
        }
        routes = {
            (each.get("oif"), f"{each.get('dst')}/{each['dst_len']}" if each.get("dst") else "default", each["type"])
            for each in other.get_routes()
        }
    assert {(link.index, link.name, link.flags, link.master) for link in rtnetlink.links()} == links
    assert {(each.index, each.text) for each in rtnetlink.addresses()} == addresses
    assert {(route.indexes[0], route.destination, route.kind) for route in rtnetlink.routes() if route.indexes} == {
        route for route in routes if route[0] is not None
    }


def test_an_interface_that_is_not_there_is_used_for_nothing() -> None:
    assert LinuxNetwork().use("no-such").reasons == []


@pytest.mark.parametrize(("length", "hops"), [(8, [3, 5]), (0, []), (7, [])])
def test_a_route_through_several_interfaces_counts_for_each(
    length: int, hops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A next hop of no length ends the list."""
    hop = (length).to_bytes(2, "little") + bytes(2)
    data = hop + (3).to_bytes(4, "little") + hop + (5).to_bytes(4, "little")
    answer = [((2, 0, 0, 0, 254, 0, 0, 1, 0), {9: data})]
    monkeypatch.setattr(rtnetlink, "_dump", lambda *_: iter(answer))
    assert list(rtnetlink.routes()) == [rtnetlink.Route(tuple(hops), "default", 1, 254)]


def test_a_name_that_is_no_text_is_the_same_in_sysfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes any byte for a name; the interface would be taken for one that is not there."""
    monkeypatch.setattr(rtnetlink, "_dump", lambda *_: iter([((0, 1, 2, 0x1_0001), {3: b"e\xff\0"})]))
    assert [link.name for link in rtnetlink.links()] == [os.fsdecode(b"e\xff")]
