"""Several paths to a prefix, sent under identifiers (RFC 7911): which, to whom, and what becomes of each."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.instance import Instance
from bgp.looking_glass import Query, RibView, query
from bgp.path import Source
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.rib.add_path_out import AddPathOut
from bgp.rib.adj_rib_out import AdjRibOut
from bgp.rib.decision import in_order
from bgp.rib.export import export_attributes
from bgp.rib.path_ids import LARGEST, PathIds
from bgp.session.fsm import State
from bgp.wire import messages, nlri
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities, GracefulRestart
from bgp.wire.families import Family
from bgp.wire.messages import Decoder, Keepalive, Open, RouteRefresh, Subtype, Update
from tests.fakes.wire import Node, Wire, address

BLOCK, OTHER = "192.168.1.0/26", "192.168.2.0/26"
BOTH = frozenset(Family)
OWN = IPv4Address("10.0.0.1")
CLIENTS = [IPv4Address(f"10.0.0.{last}") for last in (2, 3, 4)]
WATCHER = IPv4Address("10.0.0.9")
PLAIN = Context(four_octet_as=True, internal=True, families=BOTH)


# -- between speakers of ours -----------------------------------------------------------------------------------------


def reflected(wire: Wire, *lasts: int, paths_sent: int = 16) -> tuple[Node, list[Node]]:
    """A reflector and its clients, of which all but the last announce one block."""
    rr = wire.node(1, cluster_id=IPv4Address("10.255.0.1"))
    nodes = [wire.node(last) for last in lasts]
    wire.peer(rr, *lasts, route_reflector_client=True, paths_sent=paths_sent)
    wire.announce(rr)
    for node in nodes:
        wire.peer(node, 1, paths_sent=16)
        wire.announce(node, *([BLOCK] if node is not nodes[-1] else []))
    wire.until(lambda: all(node.state(rr) is State.ESTABLISHED for node in nodes))
    wire.run(2)
    return rr, nodes


def hops(node: Node, prefix: str = BLOCK) -> str:
    found = node.router.ribs[Family.IPV4].hops(nlri.pack(ip_network(prefix)))
    return "" if found is None else str(found).replace("10.0.0.", "")


def ids(node: Node, to: Node, prefix: str = BLOCK) -> tuple[int, ...]:
    out = node.router.peers[to.own].adj_ribs_out[Family.IPV4]
    assert isinstance(out, AddPathOut)
    return out.path_ids(nlri.pack(ip_network(prefix)))


def updates(wire: Wire, one: Node, other: Node) -> list[bytes]:
    return [
        data for _, sender, to, data in wire.sent if (sender, to) == (one.own, other.own) and data[18] == 2
    ]


@pytest.mark.parametrize(("paths_sent", "found"), [(16, "2, 3, 4"), (2, "2, 3"), (1, "2")])
def test_a_reflector_hides_no_path_but_those_beyond_the_limit_the_best_first(
    paths_sent: int, found: str
) -> None:
    _, nodes = reflected(Wire(), 2, 3, 4, 5, paths_sent=paths_sent)
    assert hops(nodes[-1]) == found
    assert hops(nodes[0]) == ""  # its own


def test_a_path_is_withdrawn_by_its_identifier_which_is_its_own_for_life() -> None:
    wire = Wire()
    rr, (two, three, four) = reflected(wire, 2, 3, 4)
    before = ids(rr, four)
    assert len(before) == 2
    wire.configure(
        three, {address(1): replace(three.router.peers[address(1)].config, description="another one")}
    )
    wire.announce(two)
    wire.run(1)
    assert hops(four) == "3"
    assert ids(rr, four) == before[1:]
    wire.announce(two, BLOCK)
    wire.run(1)
    assert hops(four) == "2, 3"
    assert ids(rr, four)[1] == before[1]


def test_what_a_client_announced_does_not_come_back_to_it() -> None:
    wire = Wire()
    rr, (two, three, _) = reflected(wire, 2, 3, 4)
    seen = query(two.router, Query(RibView.RECEIVED, address(1))).paths
    assert [str(one.path.attributes.originator_id) for one in seen] == ["10.0.0.3"]
    (refused, sent) = query(rr.router, Query(RibView.ADVERTISED, two.own)).paths
    assert (refused.best, refused.reason) == (False, "the peer itself announced it")
    assert (sent.best, sent.reason) == (True, "advertised")
    assert hops(three) == ""


def test_a_node_of_the_mesh_passes_on_the_paths_of_both_its_tors() -> None:
    wire = Wire()
    node, mate, tors = wire.node(1), wire.node(2), [wire.node(5, 65005), wire.node(6, 65006)]
    inside = PeerConfig(address(2), 64512, local_address=node.own, paths_sent=16)
    outside = [
        PeerConfig(address(last), asn, local_address=node.own) for last, asn in ((5, 65005), (6, 65006))
    ]
    wire.configure(node, {one.address: one for one in (inside, *outside)})
    wire.peer(mate, 1, paths_sent=16)
    wire.announce(node, OTHER)
    wire.announce(mate)
    for tor in tors:
        wire.peer(tor, (1, 64512))
        wire.announce(tor, BLOCK)
    wire.until(lambda: hops(mate) == "5, 6")
    assert hops(node) == "5, 6"
    assert ids(node, mate, OTHER)
    (first, _) = tors
    wire.announce(first)
    wire.run(1)
    assert hops(mate) == "6"
    # A peer that takes one is sent the best, as ever.
    assert first.learned() == {OTHER: "10.0.0.1", BLOCK: "10.0.0.1"}


def test_a_path_that_changes_beside_the_best_one_goes_only_to_those_who_take_several() -> None:
    wire = Wire()
    rr, (two, three, four) = reflected(wire, 2, 3, 4)
    wire.configure(rr, {**{a: p.config for a, p in rr.router.peers.items()}, **outsider(rr)})
    far = wire.node(8, 65008)
    wire.peer(far, (1, 64512))
    wire.announce(far)
    wire.until(lambda: far.learned() == {BLOCK: "10.0.0.1"})
    before = len(updates(wire, rr, far)), len(updates(wire, rr, four))
    wire.announce(three)
    wire.run(1)
    assert (len(updates(wire, rr, far)), len(updates(wire, rr, four))) == (before[0], before[1] + 1)
    assert two.learned() == {}


def outsider(node: Node) -> dict[IPv4Address, PeerConfig]:
    return {address(8): PeerConfig(address(8), 65008, local_address=node.own)}


def test_a_reflector_that_restarts_costs_no_path_and_its_end_of_rib_takes_what_is_gone() -> None:
    wire = Wire()
    rr, nodes = reflected(wire, 2, 3, 4)
    two, _, four = nodes
    wire.kill(rr)
    wire.run(1)
    assert hops(four) == "2, 3"  # both stale
    wire.announce(two)
    again = wire.node(1, cluster_id=IPv4Address("10.255.0.1"), restarting=True)
    wire.peer(again, 2, 3, 4, route_reflector_client=True, paths_sent=16)
    wire.announce(again)
    wire.until(lambda: hops(four) == "3")  # the other one is stale, or gone
    wire.until(lambda: not four.stale())
    assert len(four.router.ribs[Family.IPV4].candidates(nlri.pack(ip_network(BLOCK)))) == 1


def test_the_number_of_paths_changes_in_a_session_and_whether_there_are_several_in_a_new_one() -> None:
    wire = Wire()
    rr, nodes = reflected(wire, 2, 3, 4, 5)
    last = nodes[-1]

    def change(paths_sent: int) -> None:
        known = {where: peer.config for where, peer in rr.router.peers.items()}
        wire.configure(rr, known | {last.own: replace(known[last.own], paths_sent=paths_sent)})
        wire.run(10)

    sessions = rr.router.peers[last.own].sessions
    change(2)
    assert (hops(last), rr.router.peers[last.own].sessions) == ("2, 3", sessions)
    views = query(rr.router, Query(RibView.ADVERTISED, last.own)).paths
    assert [view.reason for view in views] == ["advertised", "advertised", "more than paths_sent (2)"]
    change(1)
    assert (hops(last), rr.router.peers[last.own].sessions) == ("2", sessions + 1)
    change(16)
    assert (hops(last), rr.router.peers[last.own].sessions) == ("2, 3, 4", sessions + 2)


# -- beside a peer made of octets -------------------------------------------------------------------------------------


class Reflector:
    """An instance with clients that announce, and one that takes several paths and keeps a table of what it reads."""

    def __init__(
        self, paths_sent: int = 16, *, takes_several: bool = True, family: Family = Family.IPV4
    ) -> None:
        self.router = Instance(SpeakerConfig(64512, OWN, OWN), lambda: 0.5, 0.0)
        self.family, self.paths_sent = family, paths_sent
        peer = PeerConfig(
            OWN, 64512, passive=True, families=BOTH, route_reflector_client=True, paths_sent=paths_sent
        )
        known = (*CLIENTS, WATCHER)
        self.router.configure({one: replace(peer, address=one) for one in known}, 0.0)
        self.router.announce([])
        receive = BOTH if takes_several else frozenset[Family]()
        self.connections = {
            one: self._connect(one, receive if one == WATCHER else frozenset()) for one in known
        }
        ids = BOTH if takes_several and paths_sent > 1 else frozenset[Family]()
        self.decoder = Decoder(replace(PLAIN, path_ids=ids))
        self.table: dict[bytes, PathAttributes] = {}
        self.heard: list[messages.Message] = []

    def _connect(self, peer: IPv4Address, receive: frozenset[Family]) -> int:
        connection = self.router.accept(peer)
        assert connection is not None
        self.router.connected(connection, OWN, 0.0, outgoing=False)
        restart = GracefulRestart(120, families=BOTH, forwarding_preserved=BOTH)
        offer = Capabilities(
            BOTH,
            64512,
            route_refresh=True,
            graceful_restart=restart,
            enhanced_refresh=True,
            add_path_receive=receive,
        )
        for message in (Open(64512, 90, peer, offer), Keepalive()):
            self.router.received(connection, messages.encode(message, PLAIN), 0.0)
        self.router.flush(0.0)
        return connection

    def say(self, peer: IPv4Address, update: Update | RouteRefresh) -> None:
        self.router.received(self.connections[peer], messages.encode(update, PLAIN), 0.0)

    def read(self) -> list[messages.Message]:
        """What the watcher reads until nothing more comes."""
        found: list[messages.Message] = []
        connection = self.connections[WATCHER]
        while True:
            self.router.flush(0.0)
            data = self.router.next_update(connection)
            if not data and not self.router.is_busy:
                return found
            for message in self.decoder.receive(data):
                found.append(message)
                if isinstance(message, Update):
                    for key in message.withdrawn:
                        del self.table[key]  # nothing is withdrawn that it does not have
                    if message.attributes is not None:
                        self.table |= dict.fromkeys(message.announced, message.attributes)

    def expected(self) -> dict[bytes, PathAttributes]:
        """What the watcher should have, from scratch."""
        rib, peer = self.router.ribs[self.family], self.router.peers[WATCHER]
        to = self.router.export_target(peer, self.family)
        assert to is not None
        found: dict[bytes, PathAttributes] = {}
        for prefix in rib.prefixes:
            paths = [
                (one, export_attributes(one, to)) for one in in_order(rib.candidates(prefix), rib.unreachable)
            ]
            best = [(one, attributes) for one, attributes in paths if attributes is not None][
                : self.paths_sent
            ]
            found |= {
                nlri.identified(rib.sent_ids.of(one.source), prefix): attributes for one, attributes in best
            }
        return found


def said(last: int, hop: int | None = None, **more: object) -> PathAttributes:
    return replace(PathAttributes(next_hop=IPv4Address(f"10.0.0.{hop or last}"), local_pref=100), **more)  # type: ignore[arg-type]


PREFIXES = tuple(bytes([24, 10, 0, number]) for number in range(40))


def test_a_peer_that_does_not_take_several_is_sent_the_best_without_an_identifier() -> None:
    one = Reflector(takes_several=False)
    for last, client in enumerate(CLIENTS, 2):
        one.say(client, Update((), said(last), PREFIXES[:1]))
    one.read()
    assert list(one.table) == [PREFIXES[0]]
    assert type(one.router.peers[WATCHER].adj_ribs_out[Family.IPV4]) is AdjRibOut


def test_very_many_prefixes_of_a_path_share_an_update_and_end_of_rib_comes_behind_them() -> None:
    one = Reflector()
    for last, client in enumerate(CLIENTS, 2):
        one.say(client, Update((), said(last), PREFIXES))
    found = one.read()
    announced = [message for message in found if isinstance(message, Update) and message.announced]
    assert [len(message.announced) for message in announced] == [len(PREFIXES)] * 3
    ends = [message for message in found if isinstance(message, Update) and message.is_end_of_rib]
    assert found[-2:] == ends  # one of each family
    assert one.table == one.expected()


@pytest.mark.parametrize("family", list(Family))
def test_an_update_is_never_longer_than_a_message_and_as_full_as_it_can_be(family: Family) -> None:
    out, length = AddPathOut(family), 24 if family is Family.IPV4 else 64
    prefixes = [bytes([length]) + number.to_bytes(length // 8, "big") for number in range(2000)]
    hop = ip_network("10.0.0.5/32" if family is Family.IPV4 else "fd00::5/128").network_address
    for prefix in prefixes:
        out.set_paths(
            prefix, {0xFFFFFFFF: PathAttributes(next_hop=hop), 7: PathAttributes(next_hop=hop, med=7)}
        )
    decoder, sizes, known = Decoder(replace(PLAIN, path_ids=BOTH)), [], set[bytes]()
    while (message := out.next_message(PLAIN, 4096)) is not None:
        data = messages.encode(message, PLAIN)
        sizes.append(len(data))
        for update in decoder.receive(data):
            assert isinstance(update, Update)
            known |= {*update.announced}
    assert known == {nlri.identified(one, prefix) for one in (0xFFFFFFFF, 7) for prefix in prefixes}
    assert max(sizes) <= 4096
    assert sorted(sizes)[2] > 4096 - 60  # but for the last one of each set of attributes


def test_a_marked_refresh_sends_every_path_again_between_its_marks() -> None:
    one = Reflector()
    for last, client in enumerate(CLIENTS, 2):
        one.say(client, Update((), said(last), PREFIXES[:3]))
    one.read()
    before, one.table = one.table, {}
    one.say(WATCHER, RouteRefresh(Family.IPV4, 1, Subtype.REQUEST))
    found = one.read()
    marks = [message.subtype for message in found if isinstance(message, RouteRefresh)]
    assert (marks, found[0], found[-1]) == (
        [Subtype.BEGIN, Subtype.END],
        RouteRefresh(Family.IPV4, 1, Subtype.BEGIN),
        RouteRefresh(Family.IPV4, 1, Subtype.END),
    )
    assert one.table == before == one.expected()


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("announce"),
            st.sampled_from(range(3)),
            st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
            st.tuples(st.integers(2, 5), st.sampled_from([100, 200]), st.booleans()),
        ),
        st.tuples(
            st.just("withdraw"),
            st.sampled_from(range(3)),
            st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
            st.none(),
        ),
        st.tuples(st.just("lose"), st.integers(0, 15), st.none(), st.none()),
        st.tuples(st.just("read"), st.none(), st.none(), st.none()),
    ),
    max_size=20,
)


@given(steps, st.sampled_from([2, 16]))
def test_after_any_history_the_peer_has_what_is_worked_out_from_scratch(
    history: list[tuple[str, int, list[int], tuple[int, int, bool]]], paths_sent: int
) -> None:
    one = Reflector(paths_sent)
    for kind, who, numbers, more in history:
        if kind == "announce":
            hop, pref, tagged = more
            attributes = said(0, hop, local_pref=pref, communities=(0xFFFFFF02,) if tagged else ())
            one.say(CLIENTS[who], Update((), attributes, tuple(PREFIXES[number] for number in numbers)))
        elif kind == "withdraw":
            one.say(CLIENTS[who], Update(tuple(PREFIXES[number] for number in numbers)))
        elif kind == "lose":
            lost = {IPv4Address(f"10.0.0.{2 + bit}") for bit in range(4) if who >> bit & 1}
            one.router.set_unreachable_nexthops(lost)
        else:
            one.read()
            assert one.table == one.expected()
    one.read()
    assert one.table == one.expected()
    assert all(nlri.path_id_of(key) for key in one.table)


def test_identifiers_are_used_again_only_after_all_others() -> None:
    ids, source = PathIds(), Source(1, OWN, OWN, internal=True)
    ids.add(source, 2)
    first = ids.of(source)
    ids.remove(source, 1)
    assert ids.of(source) == first == 1
    ids.remove(source, 1)
    ids.add(source, 1)
    assert ids.of(source) == 2
    ids._last = LARGEST
    other = replace(source, path_id=5)
    ids.add(other, 1)
    assert ids.of(other) == 1
    third = replace(source, path_id=6)
    ids.add(third, 1)
    assert ids.of(third) == 3
