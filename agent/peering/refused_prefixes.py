"""Which peers announce prefixes that nobody may have from them: as troubles.

Promises: pure; one trouble for each peer, which names a few of the prefixes and counts the rest.
Does not know: the rule (agent/dataplane/desired/admissible_prefixes.py), sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from agent.trouble import Trouble, TroubleKind
from bgp.peer import Peer
from bgp.transport.speaker import Speaker
from bgp.wire.families import number_of
from bgp.wire.nlri import prefix_of, unpack
from ipam.address_text import text_of

MOST_NAMED = 3
MOST_PEERS = 20
"""Peers with a trouble of their own; the rest is counted."""


def refused_prefixes(speaker: Speaker | None) -> Iterator[Trouble]:
    """A trouble for each peer of which the prefix filter refuses something."""
    if speaker is None:
        return
    peers = [peer for peer in speaker.instance.peers.values() if _count(peer)]
    peers.sort(key=lambda peer: number_of(peer.config.address))
    for peer in peers[:MOST_PEERS]:
        name = f" ({peer.config.description})" if peer.config.description else ""
        address = text_of(peer.config.address)
        cure = f"see: tortie bgp routes --received {address}"
        yield Trouble(TroubleKind.PREFIX, f"peer {address}{name}", _evidence(peer), "they are not used", cure)
    if len(peers) > MOST_PEERS:
        yield Trouble(TroubleKind.PREFIX, "", f"prefixes of {len(peers) - MOST_PEERS} more peers are refused")


def _count(peer: Peer) -> int:
    return sum(len(rib.filtered) for rib in peer.adj_ribs_in.values())


def _evidence(peer: Peer) -> str:
    count = _count(peer)
    first = islice(
        (
            f"{text_of(unpack(prefix_of(key), rib.family))} {rib.rejected[key]}"
            for rib in peer.adj_ribs_in.values()
            for key in rib.filtered
        ),
        MOST_NAMED,
    )
    more = f" and {count - MOST_NAMED} more" if count > MOST_NAMED else ""
    return f"{count} of its prefixes are refused: {', '.join(first)}{more}"
