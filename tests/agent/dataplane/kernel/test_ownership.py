"""Which routes are ours."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.dataplane.kernel.calico_names import TUNL0
from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import Route, RouteKey, RouteType, Scope

BLOCK = RouteKey(IPv4Network("10.1.0.0/26"))
LEARNED = Route(BLOCK, gateway=IPv4Address("172.26.0.2"), device="eth0")


OWNERSHIP = [
    ("10.1.0.0/26 via 172.26.0.2 dev eth0 proto bird", LEARNED, True),
    ("blackhole proto bird", Route(BLOCK, RouteType.BLACKHOLE), True),
    ("dev eth0 proto 80", LEARNED.with_(protocol=80), True),
    ("dev cali1 boot", LEARNED.with_(gateway=None, device="cali1", protocol=3, scope=Scope.LINK), True),
    ("dev cali1 bird", LEARNED.with_(device="cali1"), True),
    ("dev cali1 static", LEARNED.with_(device="cali1", protocol=4), False),
    ("dev vxlan.calico boot", LEARNED.with_(device="vxlan.calico", protocol=3), True),
    ("dev vxlan.calico static", LEARNED.with_(device="vxlan.calico", protocol=4), False),
    ("dev vxlan.calico kernel", LEARNED.with_(device="vxlan.calico", protocol=2), False),
    ("dev tunl0 boot", LEARNED.with_(device=TUNL0, protocol=3), False),
    ("dev tunl0 bird", LEARNED.with_(device=TUNL0), True),
    ("dev eth0 boot", LEARNED.with_(protocol=3), False),
    ("blackhole boot", Route(BLOCK, RouteType.BLACKHOLE, protocol=3), False),
    ("dev eth0 dhcp", LEARNED.with_(protocol=16), False),
    ("dev eth0 kernel", LEARNED.with_(protocol=2), False),
    ("another table", LEARNED.with_(key=RouteKey(BLOCK.destination, table=100)), False),
]


@pytest.mark.parametrize(("route", "ours"), [row[1:] for row in OWNERSHIP], ids=[row[0] for row in OWNERSHIP])
def test_a_route_is_ours_by_protocol_and_device(route: Route, ours: bool) -> None:
    assert Ownership().is_ours(route) is ours


def test_the_kernels_own_routes_are_never_ours_whatever_is_configured() -> None:
    assert not Ownership(learned=2).is_ours(LEARNED.with_(protocol=2))
