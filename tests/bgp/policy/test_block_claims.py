"""A claim on a block says who may announce it, and parts of it, as far as that is known."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgp.peer_config import PeerConfig
from bgp.policy.block_claims import NO_CLAIMS, BlockClaims, Owner
from bgp.policy.policy import Policy
from bgp.session.fsm import State
from bgp.wire.families import Family
from bgp.wire.nlri import pack
from tests.fakes.wire import Node, Wire, address

MESH = 64512
TWO, THREE = (
    ("n2", frozenset({address(2), ip_address("fd00::2")})),
    ("n3", frozenset({address(3)})),
)
BLOCK, OTHERS, FREE = "192.168.2.0/26", "192.168.3.0/26", "192.168.4.0/26"


def claims(of: dict[str, Owner], borrowers: dict[str, Owner] | None = None) -> BlockClaims:
    packed = None if borrowers is None else {pack(ip_network(one)): who for one, who in borrowers.items()}
    return BlockClaims.of({pack(ip_network(one)): who for one, who in of.items()}, packed)


KNOWN = {BLOCK: TWO, OTHERS: THREE, "192.168.5.0/28": THREE}


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        (BLOCK, ""),
        (OTHERS, "is the block of n3, by its claim"),
        (FREE, ""),
        ("192.168.2.0/27", ""),
        ("192.168.3.0/27", "is a part of the block of n3, by its claim"),
        ("192.168.5.0/30", "is a part of the block of n3, by its claim"),
        ("192.168.3.7/32", ""),
        ("192.168.0.0/16", ""),
    ],
)
def test_a_block_is_its_owners_and_a_single_address_may_be_borrowed(prefix: str, why: str) -> None:
    assert claims(KNOWN).refusal(pack(ip_network(prefix)), address(2), 32) == why


def test_who_borrowed_what_is_believed_where_it_is_known() -> None:
    known = claims(KNOWN, {"192.168.3.7/32": TWO})
    assert known.refusal(pack(ip_network("192.168.3.7/32")), address(2), 32) == ""
    assert known.refusal(pack(ip_network("192.168.3.8/32")), address(3), 32) == ""
    refused = known.refusal(pack(ip_network("192.168.3.8/32")), address(2), 32)
    assert refused == "is not borrowed from the block of n3, by its claim"


blocks = st.sampled_from([BLOCK, OTHERS, FREE, "192.168.4.0/28", "192.168.2.7/32"])
owners = st.dictionaries(blocks, st.sampled_from((TWO, THREE)), max_size=4)
known_claims = st.builds(claims, owners, st.none() | owners)
prefixes = st.builds(
    lambda one, length: IPv4Network((int(IPv4Network(one).network_address), max(length, 20)), strict=False),
    blocks,
    st.integers(20, 32),
)


@settings(max_examples=300, deadline=None)
@given(known_claims, known_claims, st.lists(prefixes, min_size=1))
def test_what_is_not_named_as_changed_is_decided_as_before(
    before: BlockClaims, after: BlockClaims, some: list[IPv4Network]
) -> None:
    is_touched = after.changed(before)
    for prefix in map(pack, some):
        for who in (address(2), address(3)):
            if is_touched is None or not is_touched(prefix):
                assert before.refusal(prefix, who, 32) == after.refusal(prefix, who, 32)


def mesh(wire: Wire, number: int) -> list[Node]:
    nodes = [wire.node(one, MESH) for one in range(1, number + 1)]
    for node in nodes:
        others = [one for one in range(1, number + 1) if nodes[one - 1] is not node]
        policy = Policy(checks_claims=True)
        wire.configure(node, {address(one): PeerConfig(address(one), MESH, policy=policy) for one in others})
        wire.announce(node)
    wire.until(
        lambda: all(one.state(two) is State.ESTABLISHED for one in nodes for two in nodes if one is not two)
    )
    return nodes


def take(wire: Wire, node: Node, known: BlockClaims) -> None:
    node.router.set_block_claims({Family.IPV4: known})
    wire.settle(node)


def test_nobody_takes_anothers_block_whose_claim_decides_anew_when_it_moves() -> None:
    wire = Wire()
    one, two, three = mesh(wire, 3)
    take(wire, one, claims(KNOWN))
    wire.announce(two, BLOCK, OTHERS, "192.168.3.0/27", FREE)
    wire.announce(three, OTHERS)
    wire.run(1)
    assert one.learned() == {BLOCK: str(address(2)), OTHERS: str(address(3)), FREE: str(address(2))}
    take(wire, one, claims({BLOCK: THREE, OTHERS: TWO}))
    assert one.learned() == {
        OTHERS: str(address(2)),
        "192.168.3.0/27": str(address(2)),
        FREE: str(address(2)),
    }
    take(wire, one, NO_CLAIMS)
    assert sorted(one.learned()) == sorted([BLOCK, OTHERS, "192.168.3.0/27", FREE])


def test_a_peer_whose_policy_does_not_ask_for_claims_is_believed_any_block() -> None:
    wire = Wire()
    one, two = wire.node(1, MESH), wire.node(2, MESH)
    wire.configure(one, {address(2): PeerConfig(address(2), MESH)})
    wire.configure(two, {address(1): PeerConfig(address(1), MESH)})
    for node in (one, two):
        wire.announce(node)
    take(wire, one, claims(KNOWN))
    wire.announce(two, OTHERS)
    wire.until(lambda: list(one.learned()) == [OTHERS])
