"""What preflight says of a machine that has an address on lo or a dummy, and several uplinks."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from agent.netlink.objects import Link
from agent.preflight.findings import findings
from agent.preflight.host_facts import HostFacts, HostFinding, Severity

LOOPBACK = {"lo": "10.255.0.1/32"}
DUMMY = {"node0": "10.255.0.1/32"}
UPLINKS = {"eth1": "10.0.1.1/31", "eth2": "10.0.2.1/31"}
STRICT = {"all": "0", "eth1": "1"}


def found(addresses: dict[str, str], rp_filter: dict[str, str]) -> tuple[HostFinding, ...]:
    links = {
        name: Link(
            index,
            name,
            "dummy" if name == "node0" else None,
            1500,
            up=True,
            addresses=((ip_interface(text).ip, ip_interface(text).network.prefixlen),),
        )
        for index, (name, text) in enumerate(addresses.items(), 1)
    }
    sysctls = {f"net/ipv4/conf/{name}/rp_filter": value for name, value in rp_filter.items()}
    return findings(HostFacts(links=links, sysctls=sysctls, conflists=("10-tortie.conflist",)))


@pytest.mark.parametrize("bearer", [LOOPBACK, DUMMY], ids=["lo", "dummy"])
def test_strict_reverse_path_filtering_on_one_of_several_uplinks_is_a_warning(bearer: dict[str, str]) -> None:
    (finding,) = found({**bearer, **UPLINKS}, STRICT)
    (name,) = bearer
    assert finding == HostFinding(
        Severity.WARNING,
        "reverse path filtering is strict on eth1, one of several uplinks",
        f"{name} has 10.255.0.1, which packets reach by every uplink; "
        "net.ipv4.conf.eth1.rp_filter = 1, net.ipv4.conf.all.rp_filter = 0",
        "sysctl -w net.ipv4.conf.eth1.rp_filter=2",
    )


def test_the_larger_of_the_interfaces_and_of_alls_counts() -> None:
    both = found({**LOOPBACK, **UPLINKS}, {"all": "1", "default": "2", "eth1": "0", "eth2": "0"})
    assert [one.fix for one in both] == [f"sysctl -w net.ipv4.conf.{name}.rp_filter=2" for name in UPLINKS]
    assert found({**LOOPBACK, **UPLINKS}, {"all": "2", "default": "2", "eth1": "1", "eth2": "0"}) == ()


@pytest.mark.parametrize(
    "addresses",
    [
        {"lo": "127.0.0.1/8", **UPLINKS},
        {**LOOPBACK, "eth1": "10.0.1.1/31"},
        {**LOOPBACK, "eth1": "10.0.1.1/31", "cali1": "169.254.1.1/32"},
        {"lo": "::2/128", **UPLINKS},
    ],
    ids=["none but 127.0.0.1", "one uplink", "a pod's interface is none", "IPv6 has no such filter"],
)
def test_strict_filtering_elsewhere_is_as_it_should_be(addresses: dict[str, str]) -> None:
    assert found(addresses, STRICT) == ()
