"""The reconciler over the kernel of a fresh namespace: adoption without an event, drift of every kind repaired."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

import pytest

from agent.dataplane.desired.desired_sysctls import sysctls
from agent.dataplane.desired.desired_tunnels import tunnels
from agent.dataplane.explain.overridden_routes import overridden
from agent.dataplane.explain.route_troubles import Surroundings, route_troubles
from agent.dataplane.inputs.facts import Endpoint, Facts
from agent.dataplane.kernel.calico_names import TUNL0, VXLAN_DEVICE
from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.kernel.kernel_changes import GROUPS
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.dataplane.reconciler import DesiredState
from agent.dataplane.trigger import PassTiming
from agent.netlink import sysctl
from agent.netlink.netlink_socket import NETLINK_NETFILTER, NETLINK_ROUTE, Subscription
from agent.netlink.objects import Route, RouteKey, Tunnel, TunnelKind
from ipam.model import NodeName
from tests.fixtures.namespace import fresh_namespace, ip, make_links
from tests.scenes.dataplane.desired_states import EVERYTHING, LEARNED, OWN_BLOCK, POD
from tests.scenes.dataplane.reconcilers import IMPATIENT, PATIENCE_SECONDS, Bench, running
from tests.scenes.dataplane.route_facts import routes_of
from tests.scenes.dataplane.route_facts_ipv6 import ALWAYS, NEVER, facts

REPAIR_SECONDS = 1.0
MANY = 20_000
NFNLGRP_NFTABLES = 7


@pytest.fixture
def kernel() -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        make_links("eth0", "cali1")
        ip("address add 172.26.0.1/24 dev eth0")
        kernel = NetlinkKernel()
        yield kernel
        kernel.close()


def held() -> tuple[str, ...]:
    """Everything of ours, as somebody else sees it."""
    fdb = subprocess.run(
        ["bridge", "fdb", "show", "dev", VXLAN_DEVICE], capture_output=True, text=True, check=False
    )
    nft = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False)
    tunnel = [line.split(">", 1)[1] for line in ip("-o -d link show").splitlines() if VXLAN_DEVICE in line]
    lists = [ip("route"), ip("neigh show nud permanent"), fdb.stdout, nft.stdout, ip("-br -4 address")]
    return (*("\n".join(sorted(text.splitlines())) for text in lists), *tunnel)


async def test_everything_is_in_the_kernel_as_other_programs_show_it(kernel: NetlinkKernel) -> None:
    async with running(Bench(kernel, EVERYTHING)):
        table = ip("route").splitlines()
        for route in EVERYTHING.routes.values():
            assert f"{route} " in table
        assert "ip saddr @masquerade-pools ip daddr != @all-pools masquerade" in held()[3]
        assert "66:2d:bf:44:a6:8b dst 172.26.0.2 self permanent" in held()[2]
        assert "vxlan id 4096 local 172.26.0.1 dev eth0" in held()[5]
        assert "nolearning" in held()[5]


@asynccontextmanager
async def silence() -> AsyncIterator[None]:
    """Nobody changes a link, address, neighbour, route or nftables object while the block runs."""
    ears = Subscription(NETLINK_ROUTE, GROUPS), Subscription(NETLINK_NETFILTER, (NFNLGRP_NFTABLES,))
    try:
        yield
        assert [ear.read() for ear in ears] == [None, None]
    finally:
        for ear in ears:
            ear.close()


async def test_a_restart_over_a_kernel_as_desired_makes_no_event(kernel: NetlinkKernel) -> None:
    async with running(Bench(kernel, EVERYTHING)):
        before = held()
    async with silence(), running(Bench(kernel, EVERYTHING)) as bench:
        await bench.passed()
    assert held() == before


async def test_twenty_thousand_routes_are_adopted_without_an_event(kernel: NetlinkKernel) -> None:
    base = int(IPv4Address("20.0.0.0"))
    gateway = IPv4Address("172.26.0.2")
    many = [
        Route(RouteKey(IPv4Network((base + (i << 6), 26))), gateway=gateway, device="eth0")
        for i in range(MANY)
    ]
    desired = Dataplane(routes={route.key: route for route in many})
    async with running(Bench(kernel, desired)) as bench:
        assert len(bench.reconciler.installed) == MANY
    async with silence(), running(Bench(kernel, desired)) as bench:
        assert len(bench.reconciler.installed) == MANY
        assert bench.reconciler.report().written["route"] == 0


DRIFTS = {
    "route deleted": "ip route del 10.1.1.0/26",
    "route changed": "ip route replace 10.1.1.0/26 via 172.26.0.77 dev eth0 proto bird",
    "route given a metric of its own kind": "ip route replace 10.1.1.0/26 via 172.26.0.2 dev eth0 proto bird mtu 1300",
    "blackhole deleted": "ip route del blackhole 10.1.0.0/26",
    "pod route moved": "ip route replace 10.1.0.7 dev eth0 proto bird scope link",
    "route added": "ip route add blackhole 10.77.0.0/26 proto bird",
    "neighbour deleted": "ip neigh del 10.2.0.0 dev vxlan.calico",
    "neighbour changed": "ip neigh replace 10.2.0.0 lladdr 66:00:00:00:00:01 dev vxlan.calico nud permanent",
    "neighbour made mortal": "ip neigh replace 10.2.0.0 lladdr 66:2d:bf:44:a6:8b dev vxlan.calico nud reachable",
    "forwarding entry deleted": "bridge fdb del 66:2d:bf:44:a6:8b dev vxlan.calico",
    "forwarding entry changed": "bridge fdb replace 66:2d:bf:44:a6:8b dev vxlan.calico dst 172.26.0.99",
    "forwarding entry added": "bridge fdb add 66:99:bf:44:a6:8b dev vxlan.calico dst 172.26.0.99",
    "address removed": "ip address del 10.1.0.1/32 dev vxlan.calico",
    "address added": "ip address add 10.1.0.99/24 dev vxlan.calico",
    "MTU changed": "ip link set vxlan.calico mtu 1300",
    "MAC changed": "ip link set vxlan.calico address 66:00:00:00:00:09",
    "learning switched on": "ip link set vxlan.calico type vxlan id 4096 learning",
    "tunnel down": "ip link set vxlan.calico down",
    "tunnel deleted": "ip link del vxlan.calico",
    "tunnel replaced": "ip link del vxlan.calico; ip link add vxlan.calico type vxlan id 9 dstport 9999 dev eth0",
    "table deleted": "nft delete table ip tortie",
    "ruleset flushed": "nft flush ruleset",
    "rule deleted": "nft flush chain ip tortie postrouting",
    "filter's table deleted": "nft delete table inet tortie",
    "filter's rules flushed": "nft flush chain inet tortie prerouting",
    "filter put to sleep": "nft add table inet tortie { flags dormant;}",
    "pod taken from the filter": "nft flush set inet tortie sources4",
    "stranger added to the filter": "nft add element inet tortie sources4 { cali9 . 10.1.0.9 }",
    "pool taken from its set": "nft flush set ip tortie all-pools",
}


@pytest.mark.parametrize("drift", DRIFTS)
async def test_drift_is_repaired_in_under_a_second_and_foreign_things_stay(
    kernel: NetlinkKernel, drift: str
) -> None:
    ip("route add 10.200.0.0/24 via 172.26.0.3 dev cali1 onlink proto static")
    ip("neigh add 172.26.0.3 lladdr 66:00:00:00:00:77 dev cali1-far nud permanent")
    async with running(Bench(kernel, EVERYTHING)) as bench:
        await bench.quiet()
        whole = held()
        for command in DRIFTS[drift].split("; "):
            subprocess.run(command.split(), check=True)
        assert held() != whole
        await bench.until(lambda: held() == whole, REPAIR_SECONDS)


async def test_who_flushed_the_ruleset_is_told(kernel: NetlinkKernel) -> None:
    async with running(Bench(kernel, EVERYTHING)) as bench:
        await bench.quiet()
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        await bench.until(lambda: bool(bench.log.of("kernel.drift")))
        assert bench.log.of("kernel.drift")[-1]["by"] == "nft"


async def test_switches_that_somebody_turns_are_turned_back(kernel: NetlinkKernel) -> None:
    facts = Facts(NodeName("n1"), endpoints=(Endpoint("cali1", ()),))
    desired = sysctls(facts, ("eth0",))
    assert "net/ipv4/conf/eth0/forwarding" in desired
    async with running(Bench(kernel, Dataplane(sysctls=desired))) as bench:
        await bench.quiet()
        assert await kernel.sysctls(list(desired)) == desired
        for name, sysctl_ in desired.items():
            (sysctl.ROOT / name).write_text("1" if sysctl_.value == "0" else "0")
            await bench.until(
                lambda name=name, right=sysctl_.value: sysctl.read(name) == right, REPAIR_SECONDS
            )
        assert bench.reconciler.report().drift["sysctl"] >= len(desired)
        # A device made anew has other files under the same names.
        ip("link del cali1")
        ip("link add cali1 type veth peer name cali1-far")
        localnet = "net/ipv4/conf/cali1/route_localnet"
        await bench.until(lambda: sysctl.read(localnet) == "1")
        await bench.quiet()
        (sysctl.ROOT / localnet).write_text("0")
        await bench.until(lambda: sysctl.read(localnet) == "1", REPAIR_SECONDS)


async def test_links_that_flap_get_their_routes_back(kernel: NetlinkKernel) -> None:
    async with running(Bench(kernel, EVERYTHING)) as bench:
        await bench.quiet()
        whole = held()
        for name in ("eth0", "cali1"):
            ip(f"link set {name} down")
            ip(f"link set {name} up")
        assert held() != whole
        await bench.until(lambda: held() == whole, REPAIR_SECONDS)


@pytest.mark.parametrize("vni", [4096, 4097], ids=["our VNI", "another VNI, other flags"])
async def test_an_alien_vxlan_device_on_our_port_is_named_and_left(kernel: NetlinkKernel, vni: int) -> None:
    ip(f"link add flannel.1 type vxlan id {vni} dstport 4789 dev eth0 gbp")
    ip("link set flannel.1 up")
    async with running(Bench(kernel, EVERYTHING)) as bench:
        reason = bench.reconciler.report().refused["tunnel vxlan.calico"]
        assert f"the device flannel.1 has UDP port 4789 (VNI {vni})" in reason
        assert "10.1.0.7 dev cali1" in ip("route")
    assert "flannel.1" in ip("link")


async def test_a_foreign_device_that_bears_the_tunnels_name_is_not_taken(kernel: NetlinkKernel) -> None:
    ip("link add tunl1 type bridge")
    if " tunl0" in ip("link"):  # where ipip is there, each namespace has a real one
        ip("link set tunl0 name tunl2")
    ip("link set tunl1 name tunl0")
    desired = Tunnel(TUNL0, TunnelKind.IPIP, 1480, IPv4Address("10.1.0.1"))
    async with running(Bench(kernel, Dataplane(tunnels={TUNL0: desired}))) as bench:
        assert "of kind bridge, not ipip" in bench.reconciler.report().refused["tunnel tunl0"]


async def test_a_flood_of_changes_that_overruns_the_listener_leaves_no_drift(kernel: NetlinkKernel) -> None:
    batch = "\n".join(f"route add 30.{i >> 8}.{i & 255}.0/24 dev eth0 proto static" for i in range(30_000))
    async with running(
        Bench(kernel, Dataplane(routes={LEARNED.key: LEARNED, OWN_BLOCK.key: OWN_BLOCK}))
    ) as bench:
        # The loop does not run meanwhile, so the listener cannot keep up.
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
        ip("route del 10.1.1.0/26")
        ip("route flush proto static")
        await bench.until(lambda: bench.reconciler.report().overruns > 0)
        await bench.passed()
        assert LEARNED.key in await kernel.routes()


async def test_the_agents_own_marks_decide_not_the_desired(kernel: NetlinkKernel) -> None:
    for line in (
        "10.50.0.0/24 via 172.26.0.2 dev eth0 proto static",
        "10.51.0.0/24 via 172.26.0.2 dev eth0",
        "blackhole 10.52.0.0/24",
        "10.53.0.1 dev cali1 proto zebra scope link",
    ):
        ip(f"route add {line}")
    foreign = set(ip("route").splitlines())
    ip("route add 10.54.0.0/24 via 172.26.0.2 dev eth0 proto bird")
    ip("route add 10.55.0.1 dev cali1 scope link")
    async with running(Bench(kernel)):
        assert set(ip("route").splitlines()) == foreign


@pytest.mark.ipip
async def test_ipip_drift_is_repaired_too(kernel: NetlinkKernel) -> None:
    tunnel = Tunnel(TUNL0, TunnelKind.IPIP, 1480, IPv4Address("10.1.0.1"))
    through = LEARNED.with_(device=TUNL0, onlink=True)
    desired = Dataplane(tunnels={TUNL0: tunnel}, routes={through.key: through, POD.key: POD})

    def ipip_held() -> tuple[str, ...]:
        return ip("route show proto bird"), ip("-br -4 address show tunl0"), ip("-o link show tunl0")

    async with running(Bench(kernel, desired)) as bench:
        await bench.quiet()
        whole = ipip_held()
        for command in ("link set tunl0 down", "address flush dev tunl0", "link set tunl0 mtu 1300"):
            ip(command)
            assert ipip_held() != whole
            await bench.until(lambda: ipip_held() == whole, PATIENCE_SECONDS)
        assert bench.reconciler.report().refused == {}


async def test_a_default_route_that_the_host_gets_takes_the_place_of_ours_and_gives_it_back(
    kernel: NetlinkKernel,
) -> None:
    learned = LEARNED.with_(key=RouteKey(IPv4Network("0.0.0.0/0")))
    async with running(Bench(kernel, Dataplane(routes={learned.key: learned}))) as bench:
        ours = str(learned)
        assert ours.replace("0.0.0.0/0", "default") in ip("route show default")
        ip("route add default via 172.26.0.3 dev eth0 proto dhcp metric 100")
        await bench.until(lambda: len(ip("route show default").splitlines()) == 1)
        assert "proto dhcp metric 100" in ip("route show default")
        state = bench.reconciler.snapshot()
        assert "not ours" in state.waiting[learned.key]
        ip("route del default via 172.26.0.3 dev eth0 proto dhcp metric 100")
        await bench.until(lambda: "proto bird" in ip("route show default"))


async def test_an_ipv6_block_moves_from_the_underlay_into_the_tunnel_though_the_gateway_lies_in_it(
    kernel: NetlinkKernel,
) -> None:
    """The kernel took the gateway's way from the block's old route, and refused the new one for good."""
    ip("address add fd26::1/64 dev eth0 nodad")
    ip("route add fd10:1::/48 via fd26::99 dev eth0")  # the host's own, around all blocks
    without, within = (
        Dataplane(routes=routes_of(given), tunnels=tunnels(given)) for given in (facts(NEVER), facts(ALWAYS))
    )
    async with running(Bench(kernel, without)) as bench:
        bench.desired = DesiredState(within, complete=True, bgp_complete=True)
        await bench.passed()
        await bench.passed()
        assert bench.reconciler.report().refused == {}
    table = ip("-6 route")
    lost = [str(route) for route in within.routes.values() if route.device and f"{route} " not in table]
    assert lost == []


async def test_somebodys_longer_route_inside_ours_is_known_at_once_and_forgotten_when_it_goes(
    kernel: NetlinkKernel,
) -> None:
    async with running(Bench(kernel, EVERYTHING)) as bench:
        await bench.quiet()
        snapshot = bench.reconciler.snapshot()

        def found() -> list[str]:
            actual = snapshot.actual.routes
            return [str(one) for _, one in overridden(EVERYTHING.routes, actual, snapshot.ownership)]

        ip("route add 10.1.1.0/27 via 172.26.0.9 dev eth0 proto static")
        await bench.until(
            lambda: found() == ["10.1.1.0/27 via 172.26.0.9 dev eth0 proto static"], REPAIR_SECONDS
        )
        ip("route del 10.1.1.0/27")
        await bench.until(lambda: not found(), REPAIR_SECONDS)


async def test_a_veth_of_another_plugin_that_comes_and_goes_with_address_and_route_is_in_no_pass(
    kernel: NetlinkKernel,
) -> None:
    timing = PassTiming(IMPATIENT.share, grace_seconds=0.0, later_seconds=3600.0)
    bench = Bench(kernel, Dataplane(), timing=timing)
    async with running(bench):
        await bench.quiet()
        passes = bench.reconciler.passes
        for _ in range(5):
            ip("link add veth1 type veth peer name veth1-far")
            ip("address add 10.77.0.1/32 dev veth1")
            ip("link set veth1 up")
            ip("route add 10.77.0.5/32 dev veth1 src 10.77.0.1")
            ip("link delete veth1")
        ip("address add 172.27.0.1/24 dev eth0-far")  # told after all that
        await bench.until(lambda: bool(bench.seen[-1]["eth0-far"].addresses))
        assert not any("veth1" in links for links in bench.seen)
        assert bench.reconciler.passes <= passes + 2


async def test_somebodys_route_of_ipv6_with_a_lower_metric_than_ours_is_known_at_once_and_forgotten_when_it_goes(
    kernel: NetlinkKernel,
) -> None:
    ip("address add fd26::1/64 dev eth0 nodad")
    ours = Route(RouteKey(ip_network("fd10:1::/122")), gateway=ip_address("fd26::2"), device="eth0")
    async with running(Bench(kernel, Dataplane(routes={ours.key: ours}))) as bench:
        await bench.quiet()
        snapshot = bench.reconciler.snapshot()

        def found() -> list[str]:
            return [
                one.evidence
                for one in route_troubles(snapshot, (), Surroundings())
                if "before ours" in one.about
            ]

        ip(f"-6 route add {ours.key} dev cali1 metric 512 proto static")
        await bench.until(lambda: bool(found()), REPAIR_SECONDS)
        (evidence,) = found()
        assert evidence.startswith(
            f"{ours.key} dev cali1 proto static metric 512 goes before our route to it by eth0"
        )
        ip(f"-6 route del {ours.key} metric 512")
        await bench.until(lambda: not found(), REPAIR_SECONDS)
