"""What is read of a kernel in which devices come and go meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from socket import if_nametoindex

import pytest

from agent.dataplane.kernel.linux import NetlinkKernel
from agent.netlink.devices import device_name, is_gone
from agent.netlink.objects import RouteKey
from agent.netlink.rtroutes import RouteDecoder
from tests.fixtures.namespace import fresh_namespace, ip

KEY = RouteKey(ip_network("10.9.0.1/32"))


@pytest.fixture
def kernel() -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        made = NetlinkKernel()
        ip("link add cali1 type veth peer name peer1")
        ip("link set cali1 up")
        ip("link set peer1 up")
        ip("route add 10.9.0.1/32 dev cali1")
        yield made
        made.close()


async def test_a_route_whose_device_goes_while_it_is_read_is_none(kernel: NetlinkKernel) -> None:
    """Taken for one that stands, it would be nobody's of ours, and in the way of the address's next pod."""
    assert KEY in await kernel.routes()
    index = if_nametoindex("cali1")
    kernel._decoder = RouteDecoder(lambda found: f"#{found}" if found == index else device_name(found))
    assert KEY not in await kernel.routes()


def test_a_device_that_is_gone_is_told_from_one_with_an_odd_name() -> None:
    assert is_gone(device_name(2**31 - 1))
    assert [name for name in ("#", "#a", "a#1", "1", "cali1") if is_gone(name)] == []
