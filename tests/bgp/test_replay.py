"""A seed is one history: the core draws no chance but the given one, so what failed once replays."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bgp.session.fsm import State
from bgp.wire.families import Address, Family
from tests.fakes.wire import Wire

KEEPALIVE = bytes.fromhex("ff" * 16 + "001304")
History = tuple[list[tuple[float, Address, Address]], list[tuple[float, Address, Address, bytes]]]


def history(seed: int) -> History:
    """Three speakers that collide, tell, fall silent for keepalives' time, break, restart and go on."""
    wire = Wire(seed, slow_accept_seconds=0.5)
    one, two, three = nodes = [wire.node(last) for last in (1, 2, 3)]
    for last, node in enumerate(nodes, 1):
        wire.peer(node, *({1, 2, 3} - {last}), hold_seconds=9, families=frozenset(Family))
        wire.announce(node, f"192.168.{last}.0/26", f"fd10:{last}::/64")
    wire.until(lambda: all(len(node.learned()) == 4 for node in nodes))
    wire.run(30)
    wire.cut(one, two)
    wire.run(30)
    wire.kill(three)
    wire.run(5)
    again = wire.node(3, restarting=True)
    wire.peer(again, 1, 2, hold_seconds=9, families=frozenset(Family))
    wire.announce(again, "192.168.3.64/26")
    wire.run(60)
    assert one.state(two) is two.state(again) is again.state(one) is State.ESTABLISHED
    return wire.calls, wire.sent


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_gives_the_same_bytes_at_the_same_moments(seed: int) -> None:
    (calls, sent), (calls_again, sent_again) = history(seed), history(seed)
    assert len(calls) > 4
    assert len(sent) > 100
    assert calls == calls_again
    assert sent == sent_again


def test_another_seed_gives_other_pauses_between_calls_and_between_keepalives() -> None:
    of_calls, of_keepalives = set(), set()
    for seed in range(5):
        wire = Wire(seed)
        one, two = wire.node(1), wire.node(2)
        wire.peer(one, 2, hold_seconds=9)
        wire.run(30)
        wire.peer(two, 1, passive=True)
        wire.until(lambda one=one, two=two: one.state(two) is State.ESTABLISHED)  # type: ignore[misc]
        began = wire.now
        wire.run(30)
        kept = [
            at for at, sender, _, data in wire.sent if (sender, data) == (one.own, KEEPALIVE) and at > began
        ]
        of_calls.add(pauses([at for at, *_ in wire.calls]))
        of_keepalives.add(pauses(kept))
    assert (len(of_calls), len(of_keepalives)) == (5, 5)


def pauses(moments: list[float]) -> tuple[float, ...]:
    """Rounded, so that only chance makes them differ, and not the moment of the first."""
    return tuple(round(after - before, 6) for before, after in pairwise(moments))
