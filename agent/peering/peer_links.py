"""On which link of this node a peer is; and whose sessions end with theirs (decision 59).

When a link goes the kernel takes its next hops out of the routes by itself and, when it comes back, puts them in again,
before its switch knows anything. So what BGP learned there is to be learned anew: the session ends. FRR has it as `bgp
fast-external-failover`, BIRD as `check link`. Where no other link lives nothing is gained by that: a cable that is out
for a moment costs no session.
Promises: a session is ended once for each loss of its link. Does not know: the kernel, how long a link has been down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import structlog

from agent.memo import Memo
from agent.netlink.objects import Address, Link
from agent.peering.peers import DesiredPeer, PeerKind
from bgp.transport.speaker import Speaker
from bgp.wire.families import zone_of
from ipam.address_text import text_of

log = structlog.get_logger()


def link_of(links: Mapping[str, Link], address: Address) -> Link | None:
    """The link on whose subnet an address is, whether it is up or not; of several that of the longest.

    A full length (/32, /128) is no subnet.
    """
    if zone := zone_of(address):
        return links.get(zone)
    found = [
        (length, link)
        for link in links.values()
        for own, length in link.addresses
        if own.version == address.version and length < own.max_prefixlen
        if not (int(own) ^ int(address)) >> (own.max_prefixlen - length)
    ]
    return max(found, key=lambda one: one[0])[1] if found else None


def links_of_peers(
    peers: Mapping[Address, DesiredPeer],
    links: Mapping[str, Link],
    external: Collection[Address],
    before: Mapping[Address, str],
) -> dict[Address, str]:
    """Peer -> its link's name, of those that are external or were found on an uplink, but for the mesh.

    `before` is the last answer: a link that is down has lost its addresses of IPv6, and one that is gone all.
    """
    found: dict[Address, str] = {}
    for address, peer in peers.items():
        if peer.kind is PeerKind.UPLINK or (address in external and peer.kind is not PeerKind.MESH):
            link = link_of(links, address)
            name = link.name if link is not None else before.get(address)
            if name is not None:
                found[address] = name
    return found


def fallen_peers(
    on: Mapping[Address, str], links: Mapping[str, Link], established: Collection[Address]
) -> dict[Address, str]:
    """Peer with a session -> its link, which carries nothing, while that of another one with a session does."""
    speaking = {one: on[one] for one in established if one in on}
    fallen = {one: name for one, name in speaking.items() if not carries(links, name)}
    return fallen if len(fallen) < len(speaking) else {}


def carries(links: Mapping[str, Link], name: str) -> bool:
    """Whether packets can leave by a link."""
    link = links.get(name)
    return link is not None and link.up and link.carrier


class PeerLinks:
    """Ends the sessions of one node's speaker with their links, and calls the peers when these are back; a shell."""

    def __init__(self) -> None:
        self._found = Memo[dict[Address, str]](by_identity=True)
        self._on: Mapping[Address, str] = {}
        """Peer -> the link that it is on."""
        self._fallen: dict[Address, str] = {}
        """Peer whose session ended with its link -> that link, until it is back; some of the peers there are."""

    def follow(
        self,
        links: Mapping[str, Link],
        peers: Mapping[Address, DesiredPeer],
        speaker: Speaker,
        established: Callable[[], Collection[Address]],
    ) -> None:
        """The links are these; called after each pass."""
        on = self._on = self._found.get(
            lambda: links_of_peers(peers, links, _external(speaker), self._on), links, peers, speaker
        )
        down = {name for name in on.values() if not carries(links, name)}
        for peer in [one for one, name in self._fallen.items() if name not in down]:
            del self._fallen[peer]
            speaker.call_now(peer)
        if not down:
            return
        for peer, name in fallen_peers(on, links, established()).items():
            self._fallen[peer] = name
            log.warning("bgp.link_down", peer=text_of(peer), interface=name)
            speaker.link_failed(peer, f"its link {name} is down")


def _external(speaker: Speaker) -> frozenset[Address]:
    return frozenset(address for address, peer in speaker.instance.peers.items() if not peer.is_internal)
