"""Which address is the node's: every method, every reason, and what follows a change."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network

import pytest

from agent.configuration.autodetection_method import AutodetectionMethod, MethodKind, parse_method
from agent.configuration.config import NodeSettings
from agent.netlink.objects import AddressFlag, Link
from agent.node.address_candidates import evaluate, of_source, recorded_candidate, restrict
from agent.node.autodetection import Autodetection, NoAddress, resolved
from ipam.model import Pool
from tests.fakes.kernel import FakeKernel


def link(index: int, name: str, *texts: str, up: bool = True) -> Link:
    pairs = [text.split("/") for text in texts]
    addresses = tuple((ip_address(a), int(b)) for a, b in pairs)
    return Link(index, name, None, 1500, up, addresses=addresses)


def flagged(one: Link, flags: dict[str, AddressFlag]) -> Link:
    return replace(one, flagged=tuple((ip_address(text), flag) for text, flag in flags.items()))


MACHINE = {
    one.name: one
    for one in (
        link(1, "lo", "127.0.0.1/8", "::1/128"),
        link(2, "eth0", "10.0.0.5/24", "fe80::5/64", "fd00::5/64"),
        link(3, "eth1", "192.0.2.7/24"),
        link(4, "docker0", "172.17.0.1/16"),
        link(5, "eth2", "198.51.100.9/24", up=False),
        link(6, "vxlan.calico", "192.168.1.0/32"),
        link(7, "cali123", "169.254.1.1/32"),
        link(8, "eth3", "192.168.9.9/24"),
    )
}
PODS = Pool("pods", ip_network("192.168.0.0/16"), 26)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("first-found", ["10.0.0.5", "192.0.2.7"]),
        ("interface=eth1", ["192.0.2.7"]),
        ("interface=eth.*", ["10.0.0.5", "192.0.2.7"]),
        ("interface=eth", ["10.0.0.5", "192.0.2.7"]),
        ("interface=ens,eth1", ["192.0.2.7"]),
        ("interface=et*", ["10.0.0.5", "192.0.2.7", "172.17.0.1"]),
        ("interface=^th", []),
        ("interface=^eth0$", ["10.0.0.5"]),
        ("skip-interface=h0", ["192.0.2.7"]),
        ("interface=docker0", ["172.17.0.1"]),
        ("skip-interface=eth0,lo", ["192.0.2.7"]),
        ("cidr=192.0.2.0/24", ["192.0.2.7"]),
        ("cidr=172.16.0.0/12,192.0.2.0/24", ["192.0.2.7", "172.17.0.1"]),
        ("route", ["10.0.0.5", "192.0.2.7", "172.17.0.1"]),
    ],
)
def test_a_method_takes_these_in_the_order_of_interfaces(text: str, taken: list[str]) -> None:
    found = evaluate(MACHINE, 4, parse_method(text), [PODS])
    assert [str(one.address.ip) for one in found if one.reject_reason is None] == taken


def test_what_is_not_taken_says_why() -> None:
    reasons = {
        str(one.address.ip): one.reject_reason
        for one in evaluate(MACHINE, 4, parse_method("skip-interface=eth1"), [PODS])
    }
    assert reasons == {
        "127.0.0.1": "is a loopback address",
        "10.0.0.5": None,
        "192.0.2.7": "eth1 matches skip-interface=eth1",
        "172.17.0.1": "docker0 is of a kind that is passed over",
        "198.51.100.9": "eth2 is down",
        "192.168.1.0": "belongs to the pod network",
        "169.254.1.1": "is a link-local address",
        "192.168.9.9": "is inside pool pods",
    }


def test_link_local_addresses_of_ipv6_are_no_nodes() -> None:
    found = evaluate(MACHINE, 6, parse_method("first-found"))
    assert [str(one.address) for one in found if one.reject_reason is None] == ["fd00::5/64"]


def test_what_the_kernel_says_is_not_to_be_relied_on_never_becomes_the_nodes() -> None:
    one = link(2, "eth0", "fd26::1/64", "fd26::2/64", "fd26::3/64", "fd26::99/128", "fd26::b/64")
    flags = {
        "fd26::1": AddressFlag.TEMPORARY,
        "fd26::2": AddressFlag.DEPRECATED | AddressFlag.TEMPORARY,
        "fd26::3": AddressFlag.DUPLICATE,
    }
    found = evaluate({"eth0": flagged(one, flags)}, 6, parse_method("first-found"))
    assert [(str(each.address), each.reject_reason) for each in found] == [
        ("fd26::1/64", "is temporary (RFC 8981)"),
        ("fd26::2/64", "is temporary (RFC 8981)"),
        ("fd26::3/64", "is another machine's, too (duplicate address detection)"),
        ("fd26::b/64", None),
        ("fd26::99/128", None),
    ]


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("fd26::b", ["fd26::b/64"]),
        ("fd26::99", ["fd26::b/64"]),
        ("fd26::abcd", ["fd26::b/64"]),
        ("fd27::1", ["fd27::1/128"]),
    ],
)
def test_the_source_of_a_route_is_not_a_vip_nor_temporary_where_there_is_something_better(
    source: str, taken: list[str]
) -> None:
    eth0 = link(2, "eth0", "fd26::99/128", "fd26::abcd/64", "fd26::b/64")
    links = {
        "eth0": flagged(eth0, {"fd26::abcd": AddressFlag.TEMPORARY}),
        "eth1": link(3, "eth1", "fd27::1/128"),
    }
    found = of_source(evaluate(links, 6, parse_method("route")), ip_address(source))
    assert [str(one.address) for one in found] == taken


@pytest.mark.parametrize(
    ("text", "recorded", "kept"),
    [
        ("route", "10.0.0.5/24", "10.0.0.5/24"),
        ("route", "10.0.0.5/20", "10.0.0.5/24"),
        ("route", "198.51.100.9/24", "198.51.100.9/24"),
        ("route", "192.168.9.9/24", "192.168.9.9/24"),
        ("route", "192.168.1.0/32", None),
        ("route", "10.0.0.6/24", None),
        ("interface=eth1", "10.0.0.5/24", None),
        ("cidr=10.0.0.0/8", "10.0.0.5/24", "10.0.0.5/24"),
        ("cidr=192.0.2.0/24", "10.0.0.5/24", None),
        ("first-found", "172.17.0.1/16", None),
    ],
)
def test_a_recorded_address_stays_while_an_interface_bears_it_and_the_methods_words_let_it(
    text: str, recorded: str, kept: str | None
) -> None:
    found = recorded_candidate(MACHINE, IPv4Interface(recorded), parse_method(text))
    assert (str(found.address) if found is not None else None) == kept


def test_a_route_leaves_its_source_alone() -> None:
    candidates = evaluate(MACHINE, 4, parse_method("route"), [PODS])
    left = restrict(candidates, [candidates[2]], "is not the source of the route to 203.0.113.1")
    assert [str(one.address.ip) for one in left if one.reject_reason is None] == ["192.0.2.7"]
    assert left[1].reject_reason == "is not the source of the route to 203.0.113.1"


@pytest.mark.parametrize(
    "text",
    ["fastest", "interface", "interface=", "interface=(", "cidr=10.0.0.0/99", "first-found=eth0", "cidr"],
)
def test_a_wrong_method_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"none of|does not appear|missing|unterminated") as caught:
        parse_method(text)
    assert "\n" not in str(caught.value)


def test_a_method_prints_as_it_is_written() -> None:
    assert str(parse_method("cidr=10.0.0.0/8, fd00::/8")) == "cidr=10.0.0.0/8,fd00::/8"
    assert parse_method("") == AutodetectionMethod(MethodKind.ROUTE)


def finder(
    kernel: FakeKernel, *pools: Pool, endpoint: str = "http://10.0.0.1:2379", **more: str
) -> Autodetection:
    return Autodetection(kernel, NodeSettings(**more), (endpoint,), lambda: pools)  # type: ignore[arg-type]


@pytest.fixture
def machine() -> FakeKernel:
    kernel = FakeKernel()
    kernel.add_link("eth0", "10.0.0.5/24", "fd00::5/64")
    kernel.add_link("eth1", "192.0.2.7/24")
    return kernel


@pytest.mark.parametrize(
    ("settings", "address", "how"),
    [
        ({}, "10.0.0.5/24", "route to 10.0.0.1 by eth0"),
        ({"method": "can-reach=192.0.2.1"}, "192.0.2.7/24", "route to 192.0.2.1 by eth1"),
        ({"method": "interface=eth1"}, "192.0.2.7/24", "interface=eth1 by eth1"),
        ({"address": "10.9.9.9/16"}, "10.9.9.9/16", "given"),
    ],
)
async def test_the_address_is_found_and_how(
    machine: FakeKernel, settings: dict[str, str], address: str, how: str
) -> None:
    found = await finder(machine, **settings).detect(4)
    assert (found.address, found.how) == (IPv4Interface(address), how)
    assert [one.interface for one in found.candidates] == ["eth0", "eth1"]


@pytest.mark.parametrize("bearer", ["lo", "node0"])
@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({"address": "10.255.0.1/32"}, "given"),
        ({"address": "10.255.0.1"}, "given"),
        ({"method": "interface=^lo$,^node0$"}, "interface=^lo$,^node0$ by {}"),
        ({"method": "cidr=10.255.0.0/16"}, "cidr=10.255.0.0/16 by {}"),
    ],
)
async def test_an_address_on_the_loopback_becomes_the_nodes_where_a_person_says_so(
    machine: FakeKernel, bearer: str, settings: dict[str, str], how: str
) -> None:
    machine.add_link(bearer, "127.0.0.1/8", "10.255.0.1/32")
    found = await finder(machine, **settings).detect(4)
    assert (found.address, found.how) == (IPv4Interface("10.255.0.1/32"), how.format(bearer))
    kept = await finder(machine, **settings).detect(4, IPv4Interface("10.255.0.1/32"))
    assert kept.address == IPv4Interface("10.255.0.1/32")


async def test_an_address_on_the_loopback_is_passed_over_where_nobody_says_so(machine: FakeKernel) -> None:
    machine.add_link("lo", "127.0.0.1/8", "10.255.0.1/32")
    for settings in ({}, {"method": "first-found"}):
        assert (await finder(machine, **settings).detect(4)).address == IPv4Interface("10.0.0.5/24")


@pytest.mark.parametrize(
    ("endpoint", "address", "how"),
    [
        ("http://192.0.2.7:2379", "192.0.2.7/24", "beside 192.0.2.7 by eth1"),
        ("http://192.0.2.100:2379", "192.0.2.7/24", "beside 192.0.2.100 by eth1"),
        ("http://127.0.0.1:2379", "198.51.100.5/24", "route to 198.51.100.1 by eth0"),
    ],
)
async def test_where_the_datastore_is_this_machine_its_interface_is_the_nodes(
    endpoint: str, address: str, how: str
) -> None:
    """Virtual machines reach the world by eth0 and each other by eth1: the node with etcd took eth0's address.

    An address that moves between machines (192.0.2.100) is no machine's own."""
    kernel = FakeKernel()
    kernel.add_link("lo", "127.0.0.1/8")
    kernel.add_link("eth0", "198.51.100.5/24")
    kernel.add_link("eth1", "192.0.2.7/24", "192.0.2.100/32")
    found = await finder(kernel, endpoint=endpoint).detect(4)
    assert (str(found.address), found.how) == (address, how)


async def test_a_network_without_a_default_route_still_has_an_ipv6_address(machine: FakeKernel) -> None:
    found = await finder(machine).detect(6)
    assert (found.address, found.how) == (IPv6Interface("fd00::5/64"), "first found by eth0")


async def test_nothing_found_says_what_was_tried(machine: FakeKernel) -> None:
    with pytest.raises(NoAddress) as caught:
        await finder(machine, method="interface=bond0").detect(4)
    assert str(caught.value) == (
        "no node address found (10.0.0.5 eth0 does not match interface=bond0; 192.0.2.7 eth1 does not match "
        "interface=bond0); give one as node.address"
    )


def test_ipv6_is_wanted_with_a_pool_of_it_or_when_given(machine: FakeKernel) -> None:
    six = Pool("six", ip_network("fd10::/48"), 122)
    assert finder(machine).is_wanted(4)
    assert not finder(machine).is_wanted(6)
    assert finder(machine, six).is_wanted(6)
    assert finder(machine, address6="fd00::9/64").is_wanted(6)
    assert not finder(machine, six, address6="none").is_wanted(6)


async def test_names_and_addresses_are_resolved_in_the_wanted_version() -> None:
    assert await resolved(["127.0.0.1", "::1", "nowhere.invalid"], 4) == [ip_address("127.0.0.1")]
    assert await resolved(["::1", "127.0.0.1"], 6) == [ip_address("::1")]


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ("route", "recorded before, and eth1 bears it"),
        ("interface=eth", "recorded before, and eth1 bears it"),
        ("can-reach=192.0.2.1", "route to 192.0.2.1 by eth1"),
        ("can-reach=203.0.113.1", "recorded before, and eth1 bears it"),
    ],
)
async def test_an_address_that_the_node_has_goes_before_every_other(
    machine: FakeKernel, method: str, how: str
) -> None:
    found = await finder(machine, method=method).detect(4, IPv4Interface("192.0.2.7/24"))
    assert (str(found.address), found.how) == ("192.0.2.7/24", how)


@pytest.mark.parametrize("method", ["can-reach=10.0.0.1", "interface=eth0", "cidr=10.0.0.0/8"])
async def test_an_address_that_the_settings_exclude_does_not_stay(machine: FakeKernel, method: str) -> None:
    found = await finder(machine, method=method).detect(4, IPv4Interface("192.0.2.7/24"))
    assert str(found.address) == "10.0.0.5/24"


def test_an_address_that_is_none_is_not_wanted(machine: FakeKernel) -> None:
    alone = finder(machine, address="none")
    assert (alone.is_wanted(4), alone.is_wanted(6)) == (False, True)
