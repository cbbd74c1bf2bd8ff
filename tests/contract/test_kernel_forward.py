"""What the contract says of others' forward chains, and what others see of our rules in them."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace

import pytest

from agent.dataplane.kernel.dataplane_objects import ForwardChain, Kind
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.dataplane.kernel.protocol import Changes, ObjectsChanged
from tests.contract.kernels import World, nft
from tests.fixtures.namespace import fresh_namespace

DOCKER = ForwardChain("ip", "filter", "FORWARD", drops=True)
CHAINS = [
    DOCKER,
    ForwardChain("ip6", "filter", "FORWARD", drops=True),
    ForwardChain("inet", "mine", "f", drops=False),
    ForwardChain("inet", "firewalld", "filter_FORWARD", drops=True),
]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: " ".join(chain.key))
async def test_a_chain_is_opened_once_and_closed(world: World, chain: ForwardChain) -> None:
    assert await world.kernel.forward_chains() == {}
    world.foreign_forward(chain)
    assert await world.kernel.forward_chains() == {chain.key: chain}
    for opened in (True, True, False, False):
        wanted = replace(chain, opened=opened)
        await world.kernel.put_forward_chain(wanted)
        assert await world.kernel.forward_chains() == {chain.key: wanted}


async def test_opening_a_chain_that_has_gone_is_success(world: World) -> None:
    await world.kernel.put_forward_chain(replace(DOCKER, opened=True))
    assert await world.kernel.forward_chains() == {}


async def next_forward(changes: Changes) -> ObjectsChanged:
    async with asyncio.timeout(5):
        while True:
            event = await anext(changes)
            if isinstance(event, ObjectsChanged) and event.kind is Kind.FORWARD:
                return event


async def test_a_chain_that_comes_or_is_flushed_is_heard(world: World) -> None:
    changes = world.kernel.changes()
    try:
        world.foreign_forward(DOCKER)
        await next_forward(changes)
        await world.kernel.put_forward_chain(replace(DOCKER, opened=True))
        world.foreign_forward(DOCKER)
        await next_forward(changes)
        assert await world.kernel.forward_chains() == {DOCKER.key: DOCKER}
    finally:
        changes.close()


async def test_iptables_lists_our_rules_as_its_own_and_they_come_first() -> None:
    with fresh_namespace():
        subprocess.run(["iptables-nft", "-P", "FORWARD", "DROP"], check=True)
        subprocess.run(["iptables-nft", "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT"], check=True)
        kernel = NetlinkKernel()
        await kernel.put_forward_chain(replace(DOCKER, opened=True))
        shown = subprocess.run(["iptables-nft", "-S", "FORWARD"], check=True, capture_output=True, text=True)
        assert shown.stdout.splitlines() == [
            "-P FORWARD DROP",
            "-A FORWARD -i cali+ -m comment --comment tortie -j ACCEPT",
            "-A FORWARD -o cali+ -m comment --comment tortie -j ACCEPT",
            "-A FORWARD -i docker0 -j ACCEPT",
        ]
        assert nft("list chain ip filter FORWARD").count('comment "tortie"') == 2
        kernel.close()
