"""What is asked for and not done is counted as it changes, without the values, and said once when it comes and goes."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import structlog.testing

from agent.datastore.state_cache import StateCache
from agent.node import limits_watch
from agent.node.limits_watch import LimitsWatch
from ipam.etcd.store import Delete, KeyCount, Put, Versioned
from ipam.failures import StoreRefused
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.fakes.store import FakeStore
from tests.scenes.datastore.damages import document

ME = NodeName("node-1")
WAIT_SECONDS = 5.0
"""On a machine with much else to do; tests/lab/test_status.py has the law, a second."""


class Refusing(FakeStore):
    """Has no right for some prefixes."""

    refuses = ""

    async def count(self, prefix: str) -> KeyCount:
        if self.refuses and self.refuses in prefix:
            raise StoreRefused("etcd says: permission denied")
        return await super().count(prefix)


class Heard(LimitsWatch):
    """Wakes whoever waits for what it says."""

    def __init__(self, store: FakeStore, state: StateCache) -> None:
        super().__init__(store, state)
        self.said = asyncio.Event()

    def say(self) -> None:
        super().say()
        self.said.set()


class World:
    def __init__(self) -> None:
        self.store, self.state = Refusing(), StateCache(ME)
        self.watch = Heard(self.store, self.state)

    def texts(self) -> list[str]:
        return [str(trouble) for trouble in self.watch.troubles()]

    async def put(self, plural: str, name: str, value: bytes, namespace: str | None = None) -> str:
        key = resource_key(plural, name, namespace)
        await self.store.commit((), (Put(key, value),))
        return key

    async def delete(self, key: str) -> None:
        await self.store.commit((), (Delete(key),))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds():
                await self.watch.said.wait()
                self.watch.said.clear()

    async def says(self, text: str) -> None:
        await self.until(lambda: any(text in said for said in self.texts()))

    async def is_silent(self) -> None:
        await self.until(lambda: self.texts() == [])


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    task = asyncio.create_task(world.watch.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_policies_and_host_endpoints_are_counted_as_they_come_and_go() -> None:
    async with running(World()) as world:
        first = await world.put("networkpolicies", "a", b"{", "default")
        await world.says("1 policy in this datastore is not enforced by this agent")
        second = await world.put("globalnetworkpolicies", "b", b"never read")
        third = await world.put("hostendpoints", "c", b"")
        await world.says("2 policies, 1 host endpoint in this datastore are not enforced by this agent")
        assert world.watch.samples["HostEndpoint"] == 1
        for key in (first, second, third):
            await world.delete(key)
        await world.is_silent()
        assert not any(world.watch.samples.values())


async def test_what_is_there_at_the_start_is_counted() -> None:
    world = World()
    await world.put("stagednetworkpolicies", "a", b"{", "default")
    await world.put("tiers", "default", document("Tier", "default", {"order": 1}))
    await world.put("tiers", "mine", document("Tier", "mine", {"order": 1}))
    async with running(world):
        await world.says("1 tier, 1 staged policy in this datastore are not enforced")


async def test_a_profile_counts_from_the_moment_that_it_has_rules_on() -> None:
    allow = {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}
    async with running(World()) as world:
        await world.put("profiles", "kns.a", document("Profile", "kns.a", allow))
        await world.put(
            "profiles", "kns.b", document("Profile", "kns.b", {**allow, "ingress": [{"action": "Deny"}]})
        )
        await world.says("1 profile with rules in this datastore is not enforced")
        await world.put("profiles", "kns.b", document("Profile", "kns.b", allow))
        await world.is_silent()


async def test_felixs_settings_of_this_node_come_before_those_of_all() -> None:
    def settings(name: str, **spec: object) -> bytes:
        return document("FelixConfiguration", name, spec)

    async with running(World()) as world:
        await world.put("felixconfigurations", "default", settings("default", wireguardEnabled=True))
        await world.put("felixconfigurations", "node.other", settings("node.other", bpfEnabled=True))
        await world.says("wireguardEnabled is true")
        assert len(world.texts()) == 1
        own = await world.put(
            "felixconfigurations", f"node.{ME}", settings(f"node.{ME}", wireguardEnabled=False)
        )
        await world.is_silent()
        await world.delete(own)
        await world.says("wireguardEnabled is true")


async def test_the_fields_of_bgp_settings_are_those_that_the_state_cache_has() -> None:
    world = World()
    key = resource_key("bgpconfigurations", "default")
    spec = {"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}
    world.state.apply(key, Versioned(key, document("BGPConfiguration", "default", spec), 3))
    assert "serviceClusterIPs" in world.texts()[0]
    world.state.apply(key, None)
    assert world.texts() == []


async def test_an_unreadable_one_is_named_and_what_it_asked_for_holds() -> None:
    closed = document("Profile", "p", {"ingress": [{"action": "Deny"}]})
    async with running(World()) as world:
        key = await world.put("profiles", "p", closed)
        await world.says("1 profile with rules")
        await world.store.commit((), (Put(key, closed.replace(b"Deny", b"Dwny")),))
        await world.says(f"{key}: revision")
        assert len(world.texts()) == 2
        await world.delete(key)
        await world.is_silent()


async def test_it_is_logged_once_when_it_comes_and_once_when_it_goes() -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(World()) as world:
            keys = [await world.put("networkpolicies", f"p{number}", b"", "default") for number in range(2)]
            await world.says("2 policies")
            for key in keys:
                await world.delete(key)
            await world.is_silent()
    assert [line["event"] for line in logs] == ["limits.not_enforced", "limits.not_asked_for_any_more"]


async def test_a_right_that_is_missing_is_said_and_stops_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits_watch, "FIRST_WAIT_SECONDS", 0.01)
    world = World()
    world.store.refuses = "/networkpolicies/"
    async with running(world):
        await world.says("NetworkPolicy: may not be read: etcd says: permission denied")
        await world.put("hostendpoints", "c", b"")
        await world.says("1 host endpoint")
        world.store.refuses = ""
        await world.until(lambda: not any("may not" in text for text in world.texts()))


async def test_ten_thousand_policies_cost_one_number_and_a_burst_of_changes_a_few_questions() -> None:
    world = World()
    value = b"x" * 2000
    for start in range(0, 10_000, 100):
        names = [resource_key("networkpolicies", f"p{start + number}", "default") for number in range(100)]
        await world.store.commit((), [Put(name, value) for name in names])
    async with running(world):
        await world.says("10000 policies")
        tracemalloc.start()
        before, calls = tracemalloc.get_traced_memory()[0], world.store.calls
        for number in range(200):
            await world.put("networkpolicies", f"q{number}", b"", "default")
        await world.says("10200 policies")
        kept = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert world.store.calls - calls <= 200 + 5
        assert kept < 500_000, "of the fake's own history"
