"""Others' longer routes inside ours are found, and nothing else."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network

import pytest

from agent.dataplane.explain.overridden_routes import overridden
from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import RTPROT_KERNEL, Route, RouteKey, RouteType

VIA = IPv4Address("172.26.0.2")
STATIC = 4


def route(prefix: str, device: str = "eth0", protocol: int = 12, **more: object) -> Route:
    gateway = VIA if device == "eth0" and ":" not in prefix else None
    return Route(RouteKey(ip_network(prefix)), gateway=gateway, device=device, protocol=protocol, **more)  # type: ignore[arg-type]


OURS = [
    route("10.1.0.0/16"),
    route("10.1.1.0/26"),
    Route(RouteKey(ip_network("10.1.2.0/26")), RouteType.BLACKHOLE),
    route("10.1.2.7/32", "cali1", 3),
]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (route("10.1.1.0/27", "wg0", STATIC), "10.1.1.0/26"),
        (route("10.1.9.0/24", "docker0", RTPROT_KERNEL), "10.1.0.0/16"),
        (route("10.1.1.5/32", "tun1", STATIC), "10.1.1.0/26"),
        (route("10.1.1.0/27", "eth0", STATIC), None),
        (route("10.0.0.0/8", "wg0", STATIC), None),
        (route("10.1.2.0/27", "wg0", STATIC), None),
        (route("0.0.0.0/0", "wg0", STATIC), None),
        (route("fe80::/64", "wg0", RTPROT_KERNEL), None),
        (route("10.1.1.0/27", "wg0", 12), None),
    ],
    ids=[
        "inside a block",
        "a bridge's network",
        "one address",
        "the same way",
        "around",
        "in a blackhole",
        "default",
        "link-local",
        "ours",
    ],
)
def test_a_longer_route_of_others_overrides_the_longest_of_ours_around_it(
    other: Route, expected: str | None
) -> None:
    desired = {one.key: one for one in OURS}
    found = list(overridden(desired, {**desired, other.key: other}, Ownership()))
    assert [(str(ours.key), theirs) for ours, theirs in found] == ([(expected, other)] if expected else [])


OURS6 = route("fd10:1::/64")


def of_metric(metric: int, device: str = "wg0", protocol: int = STATIC) -> Route:
    key = RouteKey(ip_network("fd10:1::/64"), metric=metric)
    return Route(key, device=device, protocol=protocol)


@pytest.mark.parametrize(
    ("other", "is_before"),
    [
        (of_metric(512), True),
        (of_metric(1), True),
        (of_metric(512, "eth0"), False),  # it leads there, too
        (of_metric(2048), False),
        (of_metric(512, protocol=12), False),
    ],
    ids=["lower", "the lowest", "the same way", "higher", "ours"],
)
def test_a_route_of_others_to_the_same_prefix_with_a_lower_metric_goes_before_ours(
    other: Route, is_before: bool
) -> None:
    desired = {OURS6.key: OURS6}
    found = list(overridden(desired, {**desired, other.key: other}, Ownership()))
    assert found == ([(OURS6, other)] if is_before else [])


@pytest.mark.parametrize(
    "text", ["10.1.1.5/32", "10.1.1.0/26", "128.0.0.0/1", "0.0.0.0/0", "fd10:1::7/128", "fd10::/16"]
)
def test_the_keys_around_one_are_those_of_its_supernets(text: str) -> None:
    prefix = ip_network(text)
    lengths = range(prefix.prefixlen - 1, -1, -1)
    assert list(RouteKey(prefix).around()) == [
        RouteKey(prefix.supernet(new_prefix=length)) for length in lengths
    ]
