"""The ways are the kernel's own answers (RTM_GETROUTE), over random tables, read whole and then followed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from agent.dataplane.cooperative import run_now
from agent.dataplane.inputs.next_hops import NextHopResolver
from agent.dataplane.kernel.kernel_changes import NetlinkChanges
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kernel.protocol import ObjectsChanged
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address, Route
from tests.fixtures.namespace import fresh_namespace, ip, make_links

BASES = {4: int(IPv4Address("10.0.0.0")), 6: int(IPv6Address("fd10::"))}
ADDRESS_OF = {4: IPv4Address, 6: IPv6Address}
GATEWAYS = {
    4: (("172.26.0.1", "eth1"), ("172.26.0.2", "eth1"), ("172.27.0.1", "eth2")),
    6: (("fd26::1", "eth1"), ("fe80::99", "eth1"), ("fd27::1", "eth2")),
}
LAST = {4: "192.0.2.255/32", 6: "2001:db8::ffff/128"}


@pytest.fixture
def kernel() -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        make_links("eth1", "eth2")
        for name, own, own6 in (
            ("eth1", "172.26.0.11/20", "fd26::b/64"),
            ("eth2", "172.27.0.11/20", "fd27::b/64"),
        ):
            ip(f"addr add {own} dev {name}")
            ip(f"addr add {own6} dev {name} nodad")
        made = NetlinkKernel()
        yield made
        made.close()


def host(version: int, chance: random.Random) -> Address:
    """One of some hundred addresses, near to each other in some lengths."""
    bits = 32 if version == 4 else 128
    number = sum(chance.choice((0, 1)) << (bits - length) for length in (10, 14, 20, 24, 31, 32))
    found: Address = ADDRESS_OF[version](BASES[version] + number)
    return found


def random_route(version: int, chance: random.Random) -> str:
    """The words of ip(8) after the verb."""
    length = chance.choice((0, 8, 12, 18, 22, 28, 32) if version == 4 else (0, 12, 18, 22, 28, 64, 128))
    bits = 32 if version == 4 else 128
    number = int(host(version, chance)) >> (bits - length) << (bits - length)
    prefix = f"{ADDRESS_OF[version](number)}/{length}"
    metric = f"metric {chance.choice((10, 100, 1024))}"
    if chance.random() < 0.15:
        return f"{chance.choice(('blackhole', 'unreachable', 'prohibit'))} {prefix} {metric}"
    if chance.random() < 0.15:
        return f"{prefix} {metric} " + " ".join(
            f"nexthop via {via} dev {dev} weight {chance.randint(1, 3)}"
            for via, dev in chance.sample(GATEWAYS[version], 2)
        )
    if chance.random() < 0.2:
        return f"{prefix} dev {chance.choice(('eth1', 'eth2'))} {metric}"
    via, dev = chance.choice(GATEWAYS[version])
    if version == 4 and chance.random() < 0.2:
        via = "inet6 fe80::99"
    return f"{prefix} via {via} dev {dev} {metric}"


async def differences(kernel: NetlinkKernel, resolver: NextHopResolver, hosts: list[Address]) -> list[str]:
    found = []
    for one in hosts:
        resolutions = {
            (hop.gateway, hop.device)
            for hop in resolver.resolutions.of(one).hops
            if not resolver.resolutions.of(one).why
        }
        try:
            path = await kernel.path_to(one)
            is_agreed = (path.gateway or one, path.device) in resolutions
        except KernelError as error:
            path, is_agreed = str(error), not resolutions  # type: ignore[assignment]
        if not is_agreed:
            found.append(f"{one}: the kernel says {path}, we {resolver.resolutions.of(one)}")
    return found


async def follow(changes: NetlinkChanges, resolver: NextHopResolver, until: str) -> bool:
    """Apply what is notified up to the route to this prefix; whether the kernel must be read."""
    is_unclear = False
    while True:
        event = await anext(changes)
        if isinstance(event, ObjectsChanged) and isinstance(event.route, Route):
            is_unclear |= resolver.change(event.route, gone=event.gone, appended=event.appended)[0]
            if str(event.route.key) == until:
                return is_unclear


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("seed", range(3))
async def test_over_random_tables_the_ways_are_those_of_the_kernel(
    kernel: NetlinkKernel, version: int, seed: int
) -> None:
    chance = random.Random(1000 * version + seed)
    resolver = NextHopResolver(Ownership())
    resolver.set_links(await kernel.links())
    hosts = [host(version, chance) for _ in range(60)]
    run_now(resolver.adopt(await kernel.routes()))
    resolver.track(hosts)
    with closing(kernel.changes()) as changes:
        await walk(kernel, changes, resolver, hosts, chance)


async def walk(
    kernel: NetlinkKernel,
    changes: NetlinkChanges,
    resolver: NextHopResolver,
    hosts: list[Address],
    chance: random.Random,
) -> None:
    version, there = hosts[0].version, list[str]()
    for round_ in range(4):
        for _ in range(8):
            words = random_route(version, chance)
            verb = chance.choice(("replace", "replace", "append") if version == 4 else ("replace",))
            if there and chance.random() < 0.3:
                verb, words = "del", there.pop(chance.randrange(len(there)))
            try:
                ip(f"-{version} route {verb} {words}")
            except OSError:
                continue  # not there any more, or of a kind that does not replace another
            if verb != "del":
                there.append(words)
        marker = LAST[version]
        ip(f"-{version} route {'add' if round_ % 2 == 0 else 'del'} {marker} dev eth1")
        if await follow(
            changes, resolver, str(ip_address(marker.split("/")[0])) + marker[marker.index("/") :]
        ):
            run_now(resolver.adopt(await kernel.routes()))
        assert await differences(kernel, resolver, hosts) == []
        fresh = NextHopResolver(Ownership())
        fresh.set_links(await kernel.links())
        run_now(fresh.adopt(await kernel.routes()))
        assert await differences(kernel, fresh, hosts) == []
