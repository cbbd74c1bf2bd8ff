"""Nothing slow in the keepalive's way: whole tables on machines a hundred times too slow, with a hold time of 9 s."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from bgp.events import Send
from bgp.policy.policy import Action, Policy, Rule
from bgp.rib.rib_walks import (
    LEAST_PREFIXES,
    SLICE_PREFIXES,
    RibWalk,
    run_walks,
    slice_size,
    slices,
    take_first,
)
from bgp.scheduler import CONNECTION_BYTES, FULL_BYTES, READ_BYTES, ReceiveQueue, Scheduler, Seen
from bgp.session.fsm import State
from bgp.session.session import READ_FIRST_SECONDS
from bgp.wire import messages
from bgp.wire.families import Family
from bgp.wire.framing import LARGEST_EXTENDED
from bgp.wire.messages import Keepalive
from tests.fakes.add_path_peer import PEER, WIDE, AddPathPeer
from tests.fakes.machines import PIPE_BYTES, Machine, Room

TABLE = 100_000
HOLD_SECONDS = 9
SHORT_PIPE_BYTES = 16 << 10
SLOW = 0.0002
"""Seconds per prefix and step of its way: the table is some forty seconds of work."""
NETWORKS = [IPv4Network((10 << 24 | number << 6, 26)) for number in range(TABLE)]


def world(
    *, whole: bool = False, pipe_bytes: int = PIPE_BYTES
) -> tuple[Room, Machine, Machine, Machine, Machine]:
    """A teller, the slow one between, who listens to it, and one that hears nothing but keepalives; each another AS."""
    room = Room(pipe_bytes)
    middle = room.machine(9, 64512, SLOW, whole=whole)
    teller, listener, quiet = (room.machine(last, 65000 + last) for last in (1, 2, 3))
    for other, family in ((teller, Family.IPV4), (listener, Family.IPV4), (quiet, Family.IPV6)):
        room.join(other, middle, HOLD_SECONDS, family)
    for one in (middle, listener, quiet):
        one.router.announce([])
    teller.router.announce(NETWORKS)
    return room, middle, teller, listener, quiet


def all_up(middle: Machine, *others: Machine) -> bool:
    return all(middle.state(one) is one.state(middle) is State.ESTABLISHED for one in others)


def test_a_table_announced_passed_on_rejected_and_withdrawn_costs_no_session() -> None:
    room, middle, teller, listener, quiet = world()
    room.until(lambda: middle.router.converged and listener.known() == TABLE, 600)
    assert room.now > 3 * HOLD_SECONDS, "else the table was no burden"
    known = {where: peer.config for where, peer in middle.router.peers.items()}
    closed = Policy(import_rules=(Rule(Action.REJECT, "nothing"),))
    middle.router.configure(known | {teller.own: replace(known[teller.own], policy=closed)}, room.now)
    room.until(lambda: listener.known() == 0, 600)
    middle.router.configure(known, room.now)
    room.until(lambda: listener.known() == TABLE, 600)
    middle.router.set_unreachable_nexthops({teller.own})
    room.until(lambda: listener.known() == 0, 600)
    middle.router.set_unreachable_nexthops(set())
    room.until(lambda: listener.known() == TABLE, 600)
    assert all_up(middle, teller, listener, quiet)
    assert [middle.sessions(one) for one in (teller, listener, quiet)] == [1, 1, 1]
    teller.router.shutdown("gone for good")
    room.until(lambda: listener.known() == middle.known() == 0, 600)
    room.run(3 * HOLD_SECONDS)
    assert [middle.sessions(one) for one in (listener, quiet)] == [1, 1]
    assert all_up(middle, listener, quiet)
    assert middle.longest_step_seconds < HOLD_SECONDS / 2


def test_a_machine_that_does_all_steps_at_once_loses_its_sessions() -> None:
    """What the test above is worth."""
    room, middle, teller, listener, quiet = world(whole=True)
    room.until(lambda: max(middle.sessions(one) for one in (teller, listener, quiet)) > 1, 600)
    assert middle.longest_step_seconds > HOLD_SECONDS


def test_who_comes_late_gets_the_whole_table_and_its_end_after_it() -> None:
    room, middle, _, listener, quiet = world()
    room.until(lambda: listener.known() == TABLE, 600)
    late = room.machine(4, 65004)
    room.join(late, middle, HOLD_SECONDS)
    late.router.announce([])
    room.until(lambda: late.router.converged, 600)
    assert late.known() == TABLE
    assert [middle.sessions(one) for one in (listener, quiet, late)] == [1, 1, 1]


def test_a_peer_that_takes_nothing_is_given_up_and_bounds_what_waits_for_it() -> None:
    room, middle, teller, listener, quiet = world(pipe_bytes=SHORT_PIPE_BYTES)
    room.until(lambda: all_up(middle, teller, listener, quiet), 60)
    listener.free_at = float("inf")
    room.until(lambda: middle.state(listener) is not State.ESTABLISHED, 200)
    (pipe,) = (one for one in middle.out.values() if one.to is listener)
    assert SHORT_PIPE_BYTES <= pipe.most_bytes < SHORT_PIPE_BYTES + CONNECTION_BYTES + LARGEST_EXTENDED
    assert middle.sessions(quiet) == 1
    assert "hold timer expired" in middle.router.peers[listener.own].last_error


# -- the parts --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 4), st.binary(max_size=READ_BYTES * 2 + 5)), max_size=12), st.data())
def test_a_receive_queue_keeps_the_octets_of_each_connection_in_order_and_its_end_behind_them(
    arrivals: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    queue, read, ended = ReceiveQueue(), dict.fromkeys(range(1, 5), b""), {}
    sent = dict.fromkeys(range(1, 5), b"")

    def take() -> bool:
        found = queue.next()
        if found is None:
            return False
        connection, some, why = found
        assert len(some) <= READ_BYTES
        assert connection not in ended
        read[connection] += some
        if why is not None:
            ended[connection] = why
        return True

    for connection, some in arrivals:
        queue.put(connection, some)
        sent[connection] += some
        if data.draw(st.booleans()):
            take()
    for connection in sent:
        queue.end(connection, f"end of {connection}")
    while take():
        pass
    assert read == sent
    assert ended == {connection: f"end of {connection}" for connection in sent}
    assert not queue


def test_a_connection_that_sends_much_waits_for_the_others() -> None:
    queue = ReceiveQueue()
    queue.put(1, bytes(10 * READ_BYTES))
    queue.put(2, b"hello")
    assert queue.is_full(1)
    assert not queue.is_full(2)
    assert [found[0] for _ in range(4) if (found := queue.next()) is not None] == [1, 2, 1, 1]


def test_rib_walks_share_the_room_and_each_ends() -> None:
    done: list[str] = []

    def walk(name: str, steps: int) -> RibWalk:
        for _ in range(steps):
            done.append(name)
            yield 10

    walks = deque([walk("a", 3), walk("b", 1)])
    run_walks(walks, 20)
    assert done == ["a", "b"]
    while walks:
        run_walks(walks, 1)
    assert done == ["a", "b", "a", "a"]


def test_a_step_has_less_room_the_more_peers_there_are_and_never_none() -> None:
    assert slice_size(0) == slice_size(16) == SLICE_PREFIXES
    assert slice_size(100_000) == LEAST_PREFIXES
    assert SLICE_PREFIXES > slice_size(50) > slice_size(500) >= LEAST_PREFIXES


@given(st.sets(st.integers(0, 100)), st.integers(1, 50))
def test_what_is_taken_from_a_set_is_in_it_no_more_and_in_its_order(numbers: set[int], most: int) -> None:
    pending, found = dict.fromkeys(numbers), list[int]()
    while pending:
        some = take_first(pending, most)
        assert 0 < len(some) <= most
        assert not some.keys() & pending.keys()
        found += some
    assert found == list(dict.fromkeys(numbers))
    assert [one for some in slices(sorted(numbers), most) for one in some] == sorted(numbers)


def test_a_withdrawal_under_way_leaves_what_the_peer_announces_again_meanwhile() -> None:
    """Between two slices of forgetting a whole table some of it is told anew."""
    room, middle, teller, listener, _ = world()
    room.until(lambda: listener.known() == TABLE, 600)
    wanted = {where: peer.config for where, peer in middle.router.peers.items()}
    middle.router.configure({where: one for where, one in wanted.items() if where != teller.own}, room.now)
    middle.router.flush(room.now)
    middle.router.configure(wanted, room.now)
    teller.router.announce(NETWORKS[:2])
    room.until(lambda: listener.known() == 2, 600)
    assert middle.known() == 2
    assert middle.router.next_hops == {IPv4Address("10.0.0.1")}


# -- read first, then judge -------------------------------------------------------------------------------------------

KEEPALIVE = messages.encode(Keepalive(), WIDE)


class Watched:
    """A peer with a hold time of 90 s that was heard at 0, and what the socket shows."""

    def __init__(self) -> None:
        self.peer = AddPathPeer()
        self.scheduler = Scheduler(self.peer.router)
        self.unread = self.writable = False
        self.looked: list[float] = []

    def at(self, now: float) -> State:
        def look(connections: Collection[int]) -> Seen:
            assert list(connections) == [self.peer.connection]
            self.looked.append(now)
            return Seen(connections if self.unread else (), connections if self.writable else ())

        self.scheduler.step(now, look)
        return self.peer.router.peers[PEER].state


def test_a_socket_is_looked_at_only_when_its_hold_timer_would_end_the_session() -> None:
    one = Watched()
    assert [one.at(now) for now in (1.0, 30.0, 60.0, 89.9)] == [State.ESTABLISHED] * 4
    assert one.looked == []
    assert one.at(90.0) is State.ACTIVE
    assert one.looked == [90.0]
    assert "hold timer expired" in one.peer.router.peers[PEER].last_error


def test_octets_that_lie_in_the_kernel_are_read_before_their_sender_is_judged() -> None:
    one = Watched()
    one.unread = True
    assert one.at(1000.0) is State.ESTABLISHED
    one.unread = False
    one.scheduler.receive_queue.put(one.peer.connection, KEEPALIVE)
    assert one.at(1000.5) is State.ESTABLISHED
    assert one.at(1090.4) is State.ESTABLISHED
    assert one.at(1090.5) is State.ACTIVE


def test_a_peer_that_trickles_octets_of_one_message_is_silent_all_the_same() -> None:
    one, now = Watched(), 90.0
    long = messages.encode(messages.Update(), WIDE)[:16] + b"\x0f\xff\2" + bytes(500)
    for octet in long:
        one.scheduler.receive_queue.put(one.peer.connection, bytes([octet]))
        if one.at(now) is State.ACTIVE:
            break
        now += READ_FIRST_SECONDS
    assert 90 + 89 < now <= 90 + 91


def test_a_peer_whose_socket_is_no_longer_read_is_not_silent() -> None:
    """Back-pressure: so much waits here that nothing is read, and what would speak for it lies behind."""
    one = Watched()
    many = KEEPALIVE * (FULL_BYTES // len(KEEPALIVE) + 1)
    one.scheduler.receive_queue.put(one.peer.connection, many)
    assert one.scheduler.receive_queue.is_full(one.peer.connection)
    assert one.at(500.0) is State.ESTABLISHED
    assert not one.scheduler.receive_queue.is_full(one.peer.connection)


def test_a_peer_that_takes_octets_again_is_not_given_up_before_they_are_written() -> None:
    one = Watched()
    one.scheduler.receive_queue.put(one.peer.connection, KEEPALIVE)
    one.scheduler.blocked(one.peer.connection, 0.0, is_full=True)
    for now in (60.0, 120.0):
        one.scheduler.receive_queue.put(one.peer.connection, KEEPALIVE)
        one.at(now)
    one.writable = True
    assert one.at(180.0) is State.ESTABLISHED
    one.writable = False
    assert one.at(181.0) is State.ACTIVE
    assert "takes no bytes" in one.peer.router.peers[PEER].last_error


def test_after_a_stall_our_own_keepalive_goes_out_first() -> None:
    one = Watched()
    one.scheduler.step(1.0)
    one.unread = True
    step = one.scheduler.step(1000.0, lambda some: Seen(some))
    assert [type(action) for _, action in step.actions] == [Send]
    assert step.actions[0][1] == Send(one.peer.connection, KEEPALIVE)
