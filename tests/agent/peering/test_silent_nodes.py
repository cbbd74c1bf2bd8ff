"""Which nodes BGP says nothing of: their borrowed addresses follow from the datastore."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from ipaddress import IPv4Network, ip_address

import pytest

from agent.datastore.resources.documents import read
from agent.datastore.resources.resource_types import encode
from agent.datastore.state_cache import StateCache
from agent.lab.lab_plan import Mode, with_mode
from agent.lab.lifecycle import SEED_POOL
from agent.netlink.objects import Address, RouteKey
from agent.peering.silent_nodes import SILENT_SECONDS, SilentNodes, silent_nodes
from ipam.codec import encode_affinity
from ipam.etcd.store import Versioned
from ipam.keys import affinity_key, resource_key
from ipam.model import AffinityState, NodeName
from tests.fakes.clock import SetClock

ME, OURS, CALICOS = NodeName("me"), NodeName("ours"), NodeName("calicos")
ADDRESSES = {ME: "172.26.0.1", OURS: "172.26.0.2", CALICOS: "172.26.0.3"}
BLOCKS = {ME: "192.168.0.0/26", OURS: "192.168.0.64/26", CALICOS: "192.168.0.128/26"}
BOTH = frozenset({OURS, CALICOS})


class FakeBgp:
    """What a test says."""

    def __init__(self) -> None:
        self.peers: Collection[Address] = [ip_address(ADDRESSES[name]) for name in (OURS, CALICOS)]
        self.established: frozenset[Address] = frozenset()
        self.learned: Mapping[RouteKey, Address] = {}
        self.has_left = False


def cluster(mode: Mode = Mode.VXLAN) -> StateCache:
    state = StateCache(ME)
    text = json.dumps(with_mode(json.loads(SEED_POOL.read_text()), mode, ipip=True))
    pool = read(text, "pool")[0].resource
    put(state, resource_key("ippools", pool.metadata.name), encode(pool))
    for number, (name, address) in enumerate(ADDRESSES.items(), 1):
        annotations = {"projectcalico.org/tortie-machine-id": "x"} if name != CALICOS else {}
        document = {
            "kind": "Node",
            "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"bgp": {"ipv4Address": f"{address}/20"}, "ipv4VXLANTunnelAddr": f"192.168.9.{number}"},
        }
        put(state, resource_key("nodes", name), json.dumps(document).encode())
        put(
            state,
            affinity_key(name, IPv4Network(BLOCKS[name])),
            encode_affinity(AffinityState.CONFIRMED),
        )
    return state


def put(state: StateCache, key: str, value: bytes) -> None:
    state.apply(key, Versioned(key, value, 1))


@pytest.mark.parametrize(
    ("mode", "peers", "established", "learned_from", "expected"),
    [
        pytest.param(Mode.VXLAN, BOTH, (), (), {CALICOS}, id="one of ours that is a peer comes back"),
        pytest.param(Mode.VXLAN, BOTH, (CALICOS,), (), set(), id="a session"),
        pytest.param(Mode.VXLAN, (), (), (CALICOS,), {OURS}, id="its block came over a reflector"),
        pytest.param(Mode.VXLAN, (), (), (), BOTH, id="no mesh"),
        pytest.param(Mode.NONE, (), (), (), set(), id="no pool of VXLAN"),
    ],
)
def test_a_node_is_silent_unless_a_session_or_a_path_says_otherwise(
    mode: Mode,
    peers: Collection[NodeName],
    established: Collection[NodeName],
    learned_from: Collection[NodeName],
    expected: set[NodeName],
) -> None:
    bgp = FakeBgp()
    bgp.peers = [ip_address(ADDRESSES[name]) for name in peers]
    bgp.established = frozenset(ip_address(ADDRESSES[name]) for name in established)
    bgp.learned = {RouteKey(IPv4Network(BLOCKS[name])): ip_address(ADDRESSES[name]) for name in learned_from}
    assert silent_nodes(cluster(mode), bgp) == expected


def test_a_peer_is_waited_for_and_without_any_nobody_is() -> None:
    clock, bgp, told = SetClock(), FakeBgp(), list[int]()
    silent = SilentNodes(cluster(), bgp, clock, lambda: told.append(1))
    silent.look()
    assert silent.names == frozenset()
    clock.at += SILENT_SECONDS
    silent.look()
    assert (silent.names, len(told)) == ({CALICOS}, 1)
    before = silent.names
    silent.look()
    assert (silent.names is before, len(told)) == (True, 1)
    bgp.established = frozenset({ip_address(ADDRESSES[CALICOS])})
    silent.look()
    assert (silent.names, len(told)) == (frozenset(), 2)
    bgp.peers = ()
    silent.look()
    assert (silent.names, len(told)) == ({OURS}, 3)


def test_a_drained_node_hears_nobody_and_keeps_what_it_knew() -> None:
    bgp = FakeBgp()
    bgp.peers = ()
    silent = SilentNodes(cluster(), bgp, SetClock(), lambda: None)
    silent.look()
    assert silent.names == BOTH
    bgp.has_left, bgp.established = True, frozenset({ip_address(ADDRESSES[CALICOS])})
    silent.look()
    assert silent.names == BOTH
