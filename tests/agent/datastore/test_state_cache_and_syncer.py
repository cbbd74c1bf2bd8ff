"""The facts follow the datastore through everything that can happen to a watch, and lose nothing while it is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Network

import pytest
from msgspec.structs import replace

from agent.datastore.resources.documents import read
from agent.datastore.resources.resource_types import encode
from agent.datastore.state_cache import _DECODERS, ENDPOINTS, StateCache, endpoint_prefix, own_blocks
from agent.datastore.syncer import WHOLE, Syncer
from agent.lab.lifecycle import SEED_POOL
from agent.trouble import TroubleKind
from ipam import block as blocks
from ipam.codec import encode_block
from ipam.etcd.store import Delete, Put, Versioned
from ipam.keys import BLOCKS, HANDLES, affinity_key, block_key, handle_key, resource_key
from ipam.model import Attributes, HandleId, NodeName
from tests.fakes.store import FakeStore

ME, OTHER = NodeName("node-1"), NodeName("node-2")
BLOCK = IPv4Network("192.168.1.0/26")
POOL_KEY = resource_key("ippools", "default-ipv4-ippool")
POOL = encode(read(SEED_POOL.read_text(), "pool.json")[0].resource)
WAIT_SECONDS = 10


def node(name: str, address: str) -> bytes:
    document = {"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}}
    return json.dumps(
        {**document, "spec": {"bgp": {"ipv4Address": address}, "added": "by a later version"}}
    ).encode()


def endpoint(of: NodeName, name: str) -> tuple[str, bytes]:
    stored = f"{of.replace('-', '--')}-k8s-{name}-eth0"
    spec = {
        "node": of,
        "orchestrator": "k8s",
        "endpoint": "eth0",
        "interfaceName": "cali1",
        "ipNetworks": ["192.168.1.5/32"],
    }
    document = {
        "kind": "WorkloadEndpoint",
        "metadata": {"name": stored, "namespace": "default"},
        "spec": spec,
    }
    return resource_key("workloadendpoints", stored, "default"), json.dumps(document).encode()


# -- the facts --------------------------------------------------------------------------------------------------------


def filled() -> StateCache:
    state = StateCache(ME)
    state.apply(POOL_KEY, Versioned(POOL_KEY, POOL, 7))
    return state


def test_what_is_decoded_is_watched_and_what_is_watched_is_decoded() -> None:
    """Endpoints are watched by namespace (decision 5), blocks where addresses may be borrowed, the tunnels' handles."""
    assert _DECODERS.keys() == {*WHOLE, ENDPOINTS, BLOCKS, HANDLES}


def test_a_pool_that_cannot_be_read_is_what_it_was_and_says_that_nothing_is_taken_from_it() -> None:
    state = filled()
    (before,) = state.pools
    assert state.apply(POOL_KEY, Versioned(POOL_KEY, b'{"kind":"IPPool","spec":{}}', 8))
    (held,) = state.pools
    assert (held.pool, held.revision, state.has_lost) == (before.pool, 7, False)
    assert "cidr" in held.unreadable
    (trouble,) = state.unreadable.troubles()
    assert (trouble.kind, trouble.about) == (TroubleKind.UNREADABLE, POOL_KEY)
    assert trouble.evidence.startswith("revision 8 cannot be read: ")
    assert "no new address" in trouble.loss
    state.apply(POOL_KEY, Versioned(POOL_KEY, POOL, 9))
    assert ([(record.revision, record.unreadable) for record in state.pools]) == [(9, "")]
    assert not list(state.unreadable.troubles())


def test_what_was_never_read_is_absent_and_known_to_be_lost_until_it_is_gone_or_mended() -> None:
    state = StateCache(ME)
    claim = affinity_key(OTHER, BLOCK)
    state.apply(POOL_KEY, Versioned(POOL_KEY, b"{", 2))
    state.apply(claim, Versioned(claim, b"[]", 3))
    assert (state.pools, state.block_owners) == ((), {})
    assert (state.has_lost, state.has_lost_pools, state.lost_claims) == (True, True, {BLOCK: OTHER})
    state.apply(claim, None)
    assert (state.has_lost, state.lost_claims) == (True, {})
    state.apply(POOL_KEY, Versioned(POOL_KEY, POOL, 5))
    assert (state.has_lost, len(state.pools), len(state.unreadable)) == (False, 1, 0)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("nodes", {"bgp": {"ipv4Address": "10.0.0.1/24"}}),
        ("bgpconfigurations", {"asNumber": 65000}),
        ("bgppeers", {"peerIP": "10.0.0.9", "asNumber": 65001}),
        ("bgpfilters", {"exportV4": [{"action": "Reject"}]}),
        ("bfdconfigurations", {"interfaces": [{"multiplier": 4}]}),
    ],
)
def test_what_sessions_hang_on_stays_as_it_was_while_it_cannot_be_read(kind: str, spec: object) -> None:
    def seen() -> tuple[object, ...]:
        bgp = state.bgp_configuration, state.bgp_peers, state.bgp_filters
        return state.nodes, *bgp, state.bfd_configurations

    state, key = StateCache(ME), resource_key(kind, "default")
    named = {"nodes": "Node", "bgpconfigurations": "BGPConfiguration", "bgppeers": "BGPPeer"}
    named["bfdconfigurations"] = "BFDConfiguration"
    document = {"kind": named.get(kind, "BGPFilter"), "metadata": {"name": "default"}, "spec": spec}
    empty = seen()
    state.apply(key, Versioned(key, json.dumps(document).encode(), 1))
    before = seen()
    assert before != empty
    state.apply(key, Versioned(key, b"{", 2))
    assert (seen(), list(state.unreadable.keys())) == (before, [key])
    state.apply(key, None)
    assert (seen(), len(state.unreadable)) == (empty, 0)


def test_a_property_answers_the_same_object_until_something_of_its_kind_changes() -> None:
    state = filled()
    node_key, block_key = resource_key("nodes", "node-1"), affinity_key(ME, BLOCK)
    before = {name: getattr(state, name) for name in ("pools", "nodes", "block_owners", "endpoints")}
    state.apply(node_key, None)  # was not there
    assert all(getattr(state, name) is value for name, value in before.items())
    state.apply(node_key, Versioned(node_key, node("node-1", "10.0.0.1/24"), 1))
    assert (list(state.nodes), before["nodes"]) == ([ME], {})
    assert state.pools is before["pools"]
    state.apply(block_key, Versioned(block_key, b'{"state":"confirmed"}', 2))
    assert (state.block_owners, before["block_owners"]) == ({BLOCK: ME}, {})
    state.apply(node_key, None)
    assert state.nodes == {}
    key, value = endpoint(ME, "web")
    state.apply(key, Versioned(key, value, 4))
    (found,) = state.endpoints
    state.remove_endpoint(found)
    assert state.endpoints == ()
    state.add_endpoint(found)
    assert state.endpoints == (found,)


def test_a_complete_list_removes_what_is_not_in_it_and_nothing_elsewhere() -> None:
    state = filled()
    key = resource_key("nodes", "node-1")
    state.apply(key, Versioned(key, node("node-1", "10.0.0.1/24"), 1))
    state.replace(resource_key("ippools", ""), {})
    assert (state.pools, list(state.nodes)) == ((), [ME])


@pytest.mark.parametrize(
    ("value", "owned"),
    [
        (b'{"state":"confirmed"}', True),
        (b"", True),
        (b'{"state":"pending"}', False),
        (b'{"state":"pendingDeletion"}', False),
    ],
)
def test_only_a_confirmed_claim_makes_an_owner(value: bytes, owned: bool) -> None:
    state = StateCache(ME)
    key = affinity_key(ME, BLOCK)
    state.apply(key, Versioned(key, value, 1))
    assert own_blocks(state.block_owners, ME) == (frozenset({BLOCK}) if owned else frozenset())


def test_endpoints_of_other_nodes_are_no_facts_of_this_one() -> None:
    state = StateCache(ME)
    for of in (ME, OTHER):
        key, value = endpoint(of, "web")
        state.apply(key, Versioned(key, value, 1))
    assert [found.spec.node for found in state.endpoints] == [ME]


def test_an_endpoint_of_a_node_whose_name_begins_alike_is_no_fact_of_this_one() -> None:
    key, value = endpoint(NodeName("node-1-2"), "web")
    assert key.startswith(endpoint_prefix("default", ME))  # so it is heard of
    state = StateCache(ME)
    state.apply(key, Versioned(key, value, 1))
    assert state.endpoints == ()


def test_a_list_read_before_a_pod_came_or_went_does_not_undo_it() -> None:
    state = StateCache(ME)
    web, old = endpoint(ME, "web"), endpoint(ME, "old")
    state.apply(web[0], Versioned(*web, 1))
    (came,) = state.endpoints
    state.apply(web[0], None)
    state.apply(old[0], Versioned(*old, 2))
    (went,) = state.endpoints
    prefix = endpoint_prefix("default", ME)
    state.begin_listing(prefix)
    state.add_endpoint(came)
    state.remove_endpoint(went)
    state.replace(prefix, {old[0]: Versioned(*old, 2)})
    assert state.endpoints == (came,)
    state.begin_listing(prefix)  # the next one has the last word again
    state.replace(prefix, {})
    assert state.endpoints == ()


def test_what_was_adopted_is_no_news_when_it_comes_over_the_watch() -> None:
    state = StateCache(ME)
    key, value = endpoint(ME, "web")
    assert state.apply(key, Versioned(key, value, 1))
    (web,) = state.endpoints
    assert not state.apply(key, Versioned(key, value, 2))  # the same at another revision
    assert state.endpoints[0] is web
    assert state.apply(key, Versioned(key, value.replace(b"cali1", b"cali2"), 3))
    state.remove_endpoint(state.endpoints[0])
    assert not state.apply(key, None)
    assert not state.apply("/elsewhere", None)


def test_events_of_an_endpoint_wait_until_the_call_that_makes_it_has_ended() -> None:
    key, value = endpoint(ME, "web")
    known = StateCache(ME)
    known.apply(key, Versioned(key, value, 1))
    (web,) = known.endpoints
    web = replace(web, metadata=replace(web.metadata, resource_version=None))
    news: list[str] = []

    def heard(*values: bytes | None, adopts: bool = False, forgets: bool = False) -> StateCache:
        state = StateCache(ME)
        news.clear()
        with state.ignore_watch(key, lambda: news.append(key)):
            for number, one in enumerate(values, 1):
                assert not state.apply(key, Versioned(key, one, number) if one is not None else None)
                assert state.endpoints == ()
            if adopts:
                state.add_endpoint(web)
            if forgets:
                state.remove_endpoint(web)
        return state

    adopted = heard(value, adopts=True)
    assert ([one.spec for one in adopted.endpoints], news) == ([web.spec], [])
    found = adopted.endpoint(key)
    assert found is not None
    assert found.metadata.resource_version == "1"  # a DEL need not ask for it
    assert (heard(value, adopts=True, forgets=True).endpoints, news) == ((), [])
    assert (heard(value, None).endpoints, news) == ((), [])
    (other,) = heard(value.replace(b"cali1", b"cali2"), adopts=True).endpoints
    assert (other.spec.interface_name, news) == ("cali2", [key])
    assert len(heard(value).endpoints) == 1  # its maker died: what is stored is true


def test_a_value_that_becomes_unreadable_is_news_once() -> None:
    state = StateCache(ME)
    key = resource_key("nodes", "node-2")
    assert state.apply(key, Versioned(key, node("node-2", "10.0.0.2/24"), 1))
    assert state.apply(key, Versioned(key, b"{", 2))
    assert not state.apply(key, Versioned(key, b"{", 3))
    assert state.apply(key, Versioned(key, node("node-2", "10.0.0.2/24"), 4))


# -- the syncer -------------------------------------------------------------------------------------------------------


class Followed:
    """A syncer on a fake store, and a trigger."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.state = StateCache(ME)
        self.changed = asyncio.Event()
        self.syncer = Syncer(self.store, self.state, self.changed.set, hold_seconds=0.0)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await self.changed.wait()
                self.changed.clear()

    async def put(self, key: str, value: bytes) -> None:
        await self.store.commit((), (Put(key, value),))


@pytest.fixture
async def followed() -> AsyncIterator[Followed]:
    made = Followed()
    await made.put(POOL_KEY, POOL)
    task = asyncio.create_task(made.syncer.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_there_is_listed_and_what_comes_is_watched(followed: Followed) -> None:
    await followed.until(lambda: followed.syncer.in_sync)
    assert [record.pool.name for record in followed.state.pools] == ["default-ipv4-ippool"]
    await followed.put(resource_key("nodes", "node-2"), node("node-2", "10.0.0.2/24"))
    await followed.until(lambda: OTHER in followed.state.nodes)
    await followed.store.commit((), (Delete(POOL_KEY),))
    await followed.until(lambda: not followed.state.pools)


async def test_a_broken_watch_and_a_compaction_lose_no_change(followed: Followed) -> None:
    await followed.until(lambda: followed.syncer.in_sync)
    followed.store.break_watches()
    await followed.put(resource_key("nodes", "node-2"), node("node-2", "10.0.0.2/24"))
    outcome = await followed.store.commit((), (Delete(POOL_KEY),))
    followed.store.compact(outcome.revision)  # type: ignore[union-attr]
    followed.store.watches_break = False
    await followed.until(lambda: OTHER in followed.state.nodes and not followed.state.pools)


async def test_while_the_datastore_is_away_every_fact_stays(followed: Followed) -> None:
    await followed.until(lambda: followed.syncer.in_sync)
    followed.store.away = True
    followed.store.break_watches()
    await followed.until(lambda: followed.syncer.trouble is not None)
    assert followed.syncer.in_sync
    assert [record.pool.name for record in followed.state.pools] == ["default-ipv4-ippool"]
    followed.store.away = followed.store.watches_break = False
    await followed.put(resource_key("nodes", "node-2"), node("node-2", "10.0.0.2/24"))
    await followed.until(lambda: OTHER in followed.state.nodes)
    await followed.until(lambda: followed.syncer.trouble is None)


async def test_own_endpoints_are_followed_in_each_namespace_that_has_some(followed: Followed) -> None:
    await followed.until(lambda: followed.syncer.in_sync)
    followed.syncer.follow_endpoints("default")
    key, value = endpoint(ME, "web")
    await followed.put(key, value)
    await followed.until(lambda: len(followed.state.endpoints) == 1)
    await followed.store.commit((), (Delete(key),))
    await followed.until(lambda: not followed.state.endpoints)


async def test_a_syncer_that_a_mistake_ended_runs_again_and_has_lost_nothing() -> None:
    made, broken = Followed(), [True]

    def changed() -> None:
        made.changed.set()
        if broken and made.state.nodes:
            broken.clear()
            raise ValueError("of a foreign value")

    made.syncer = Syncer(made.store, made.state, changed)
    await made.put(POOL_KEY, POOL)
    await made.put(resource_key("nodes", "node-2"), node("node-2", "10.0.0.2/24"))
    with pytest.raises(ExceptionGroup):
        await made.syncer.run()
    made.syncer.follow_endpoints("default")  # as an ADD would meanwhile
    key, value = endpoint(ME, "web")
    await made.put(key, value)
    task = asyncio.create_task(made.syncer.run())
    await made.until(lambda: made.syncer.in_sync and len(made.state.endpoints) == 1)
    await made.put(resource_key("nodes", "node-2"), node("node-2", "10.0.0.3/24"))
    await made.until(lambda: str(made.state.nodes[OTHER].ipv4) == "10.0.0.3/24")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# -- tunnels and blocks ------------------------------------------------------------------------------------------------


def test_of_the_handles_only_this_nodes_tunnels_are_known() -> None:
    state = StateCache(ME)
    mine, other = (handle_key(HandleId(f"vxlan-tunnel-addr-{node}")) for node in (ME, f"{ME}1"))
    for key in (mine, other, handle_key(HandleId("k8s-pod-network.x"))):
        state.apply(key, Versioned(key, b'{"block":{}}', 7))
    assert state.tunnel_handles == {mine: 7}
    state.apply(mine, None)
    assert state.tunnel_handles == {}


def test_a_change_of_a_block_in_which_nothing_is_borrowed_differently_is_no_change() -> None:
    state = StateCache(ME)
    key = block_key(BLOCK)
    block, _ = blocks.assign(blocks.new_block(BLOCK, OTHER, "2026-01-01T00:00:00Z", 5), 1, borrowed_by(ME))
    assert state.apply(key, Versioned(key, encode_block(block), 1))
    before = state.borrowed
    more, _ = blocks.assign(block, 1, borrowed_by(OTHER))
    assert not state.apply(key, Versioned(key, encode_block(more), 2))
    assert state.borrowed is before
    assert [*before.values()] == [ME]


def borrowed_by(node: NodeName) -> Attributes:
    return Attributes(HandleId(f"of-{node}"), (("node", node),))


async def test_the_contents_of_blocks_are_watched_from_the_moment_they_are_asked_for() -> None:
    store = FakeStore()
    state = StateCache(ME)
    told = asyncio.Event()
    syncer = Syncer(store, state, told.set)
    running = asyncio.create_task(syncer.run())
    async with asyncio.timeout(WAIT_SECONDS):
        while not syncer.in_sync:
            await told.wait()
            told.clear()
        block, _ = blocks.assign(
            blocks.new_block(BLOCK, OTHER, "2026-01-01T00:00:00Z", 5), 1, borrowed_by(ME)
        )
        await store.commit((), (Put(block_key(BLOCK), encode_block(block)),))
        syncer.follow_blocks()
        syncer.follow_blocks()
        assert syncer.in_sync, "what was known stays known"
        while not state.borrowed:
            await told.wait()
            told.clear()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
