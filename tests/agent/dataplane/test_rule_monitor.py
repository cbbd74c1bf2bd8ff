"""Rules of policy routing are told where they lead pods' packets away, and only there."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.rule_monitor import ROUTES_AT_ONCE, RuleMonitor
from agent.netlink.objects import PolicyRule, Route, RouteKey
from agent.trouble import TroubleKind
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.desired_states import LEARNED, OWN_BLOCK, POD
from tests.scenes.dataplane.reconcilers import Bench, running

RULE = PolicyRule(4, 100, "to 10.1.0.0/16 lookup 77")
LAST_OF_LEARNED = IPv4Address("10.1.1.63")


def kernel_with(*routes: Route) -> tuple[FakeKernel, Dataplane]:
    kernel = FakeKernel()
    kernel.add_link("eth0", "172.26.0.1/24")
    kernel.add_link("cali1")
    return kernel, Dataplane(routes={route.key: route for route in routes})


async def test_a_rule_is_told_with_what_it_does_to_pods_packets_and_is_over_when_it_goes() -> None:
    kernel, desired = kernel_with(LEARNED, OWN_BLOCK, POD)
    async with running(Bench(kernel, desired)) as bench:
        monitor = RuleMonitor(kernel, bench.reconciler.snapshot)
        await monitor.look()
        assert list(monitor.troubles()) == []
        kernel.rules.append(RULE)
        kernel.ruled[LAST_OF_LEARNED] = None
        await monitor.look()
        (trouble,) = monitor.troubles()
        assert trouble.kind is TroubleKind.ROUTE
        assert "10.1.1.0/26 goes nowhere and not by eth0" in trouble.evidence
        assert "100: to 10.1.0.0/16 lookup 77" in trouble.evidence
        kernel.ruled[LAST_OF_LEARNED] = "wg0"
        await monitor.look()
        (trouble,) = monitor.troubles()
        assert "goes by wg0 and not by eth0" in trouble.evidence
        kernel.rules.clear()
        await monitor.look()
        assert list(monitor.troubles()) == []


async def test_a_rule_that_concerns_no_pods_packets_is_none_of_ours() -> None:
    kernel, desired = kernel_with(LEARNED, OWN_BLOCK, POD)
    kernel.rules.append(PolicyRule(4, 100, "from 172.26.0.9/32 lookup 5"))
    async with running(Bench(kernel, desired)) as bench:
        monitor = RuleMonitor(kernel, bench.reconciler.snapshot)
        await monitor.look()
        assert list(monitor.troubles()) == []


async def test_a_large_clusters_routes_are_gone_through_in_turn_and_stay_told() -> None:
    base = int(IPv4Address("20.0.0.0"))
    many = [
        Route(RouteKey(IPv4Network((base + (number << 6), 26))), gateway=LEARNED.gateway, device="eth0")
        for number in range(2 * ROUTES_AT_ONCE)
    ]
    kernel, desired = kernel_with(POD, *many)
    kernel.rules.append(RULE)
    kernel.ruled = {route.key.destination.broadcast_address: "wg0" for route in (many[5], many[-1])}
    async with running(Bench(kernel, desired)) as bench:
        monitor = RuleMonitor(kernel, bench.reconciler.snapshot)
        for _ in range(4):
            await monitor.look()
        (trouble,) = monitor.troubles()
        assert "2 prefixes, " in trouble.evidence
