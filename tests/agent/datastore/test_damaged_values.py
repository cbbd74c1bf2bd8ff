"""Whatever is stored: the state cache goes on with the last good value, names the key, and nobody behind it falls."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.cooperative import run_now
from agent.dataplane.desired.desired_routes import DesiredRoutes
from agent.dataplane.desired.desired_state import DesiredObjects
from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.inputs.gather import Gatherer
from agent.datastore.resources.resource_types import with_revision
from agent.datastore.state_cache import _DECODERS, StateCache
from agent.datastore.unreadable_values import MOST_KEPT, MOST_NAMED
from agent.datastore.writing.inventory import inventory
from agent.netlink.objects import Link
from agent.peering.peer_policies import PolicyInputs, policy
from agent.peering.peers import PeeringInputs, desired_peers, identity
from agent.trouble import TroubleKind
from ipam.etcd.store import Versioned
from ipam.keys import resource_key
from tests.scenes.datastore.damages import IPAM, ME, WATCHED, Good, byte_damages, damages, document, odd_keys

MINE = Good(
    "Node", resource_key("nodes", ME), document("Node", ME, {"bgp": {"ipv4Address": "172.26.0.1/20"}})
)
LINKS = {"eth0": Link(2, "eth0", None, 1500, True)}


def filled() -> StateCache:
    state = StateCache(ME)
    for number, good in enumerate((MINE, *WATCHED), 1):
        state.apply(good.key, Versioned(good.key, good.value, number))
    assert not list(state.unreadable.troubles())
    return state


def seen(state: StateCache) -> tuple[object, ...]:
    """Everything that anybody asks the state cache for, but for why no address is taken from a pool."""
    return (
        tuple(record.pool for record in state.pools),
        state.nodes,
        [with_revision(endpoint, None) for endpoint in state.endpoints],
        state.bgp_configurations,
        state.bgp_peers,
        state.bgp_filters,
        state.bfd_configurations,
        state.block_owners,
        state.borrowed,
        state.lock,
        state.tunnel_handles,
    )


def follow(state: StateCache) -> None:
    """What every pass makes of it."""
    facts = Gatherer(state).gather(FactSettings(from_datastore=True), LINKS, {}, {})
    routes, _ = run_now(DesiredRoutes().update(facts, None))
    DesiredObjects().dataplane(facts, routes)
    inputs = PeeringInputs(ME, state.nodes, state.bgp_configurations, state.bgp_peers)
    identity(inputs)
    desired_peers(inputs)
    rules = PolicyInputs(
        facts.pools,
        cluster=state.bgp_configuration,
        node=state.own_bgp_configuration,
        filters=state.bgp_filters,
    )
    policy(rules, tuple(state.bgp_filters))


@pytest.mark.parametrize("good", [MINE, *WATCHED], ids=lambda good: f"{good.kind}-{good.key[-6:]}")
def test_the_last_good_value_of_each_kind_holds_whatever_is_stored_and_the_key_is_named(good: Good) -> None:
    state = filled()
    before = seen(state)
    tried = 0
    for number, damage in enumerate(damages(good), 100):
        state.apply(good.key, Versioned(good.key, damage.value, number))
        tried += 1
        if good.key in state.unreadable:
            assert seen(state) == before, damage.name
            (trouble,) = state.unreadable.troubles()
            assert (trouble.kind, trouble.about) == (TroubleKind.UNREADABLE, good.key)
            assert trouble.evidence.startswith(f"revision {number} cannot be read: ")
            assert str(trouble).isprintable()
            assert len(str(trouble)) < 1200
        else:
            assert not damage.is_certain, damage.name
            follow(state)
            state.apply(good.key, Versioned(good.key, good.value, number))
            before = seen(state)
    assert tried > 60
    state.apply(good.key, None)
    assert len(state.unreadable) == 0
    assert seen(state) != before  # a real removal is one


@pytest.mark.parametrize("prefix", sorted(_DECODERS))
def test_a_key_that_is_none_of_its_kind_changes_nothing_and_is_named(prefix: str) -> None:
    state = filled()
    before = seen(state)
    good = next(good for good in WATCHED if good.key.startswith(prefix))
    named = 0
    for number, key in enumerate(odd_keys(prefix), 100):
        state.apply(key, Versioned(key, good.value, number))
        named += len(state.unreadable)
        assert seen(state) == before, key
        assert all(str(trouble).isprintable() for trouble in state.unreadable.troubles())
        state.apply(key, None)
        assert len(state.unreadable) == 0
    own_only = good.kind in ("WorkloadEndpoint", "IPAMHandle")  # of other nodes' nothing is remembered
    assert named == (0 if own_only else len(odd_keys(prefix)))


def test_two_keys_cannot_speak_of_one_object() -> None:
    state = filled()
    before = seen(state)
    for good in WATCHED:
        doubled = f"{good.key}x"
        state.apply(doubled, Versioned(doubled, good.value, 50))
    assert seen(state) == before
    assert len(state.unreadable) == len(WATCHED) - 1  # another node's tunnel is none of ours


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(WATCHED), st.randoms(use_true_random=False))
def test_any_bytes_at_all_leave_the_last_good_value_or_make_another(
    good: Good, chance: random.Random
) -> None:
    state = filled()
    value = bytearray(good.value)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(value))
        value[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
    state.apply(good.key, Versioned(good.key, bytes(value), 99))
    follow(state)


def test_very_many_unreadable_values_are_counted_and_the_first_are_named() -> None:
    state = StateCache(ME)
    keys = [resource_key("nodes", f"n{number}") for number in range(MOST_KEPT + 500)]
    for key in keys:
        state.apply(key, Versioned(key, b"{", 7))
    troubles = list(state.unreadable.troubles())
    assert [trouble.about for trouble in troubles[:-1]] == keys[:MOST_NAMED]
    assert troubles[-1].evidence == f"{len(keys) - MOST_NAMED} more stored values cannot be read"
    state.replace(resource_key("nodes", ""), {})
    assert not list(state.unreadable.troubles())


def test_the_whole_datastore_damaged_is_named_key_by_key_for_whoever_checks_it() -> None:
    for good in (*WATCHED, *IPAM):
        for number, damage in enumerate(byte_damages(good)):
            found = inventory({good.key: Versioned(good.key, damage.value, number)})
            assert set(found.damaged) <= {good.key}
            if good.kind in ("IPPool", "Node", "WorkloadEndpoint", "IPReservation"):
                assert good.key in found.damaged, damage.name
