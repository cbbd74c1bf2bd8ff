"""The looking glass of BGP as the control socket answers it: JSON questions and answers, peers by name or address.

Promises: an answer is one page, never the whole table; a wrong question is a ValueError with one sentence.
Does not know: sockets, how an answer is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from agent.dataplane.inputs.next_hops import Resolution
from agent.peering.peers import DesiredPeer
from bgp.looking_glass import MOST_PREFIXES, PathView, Query, RibView, query
from bgp.peer_status import PeerStatus, counts
from bgp.transport.speaker import Speaker
from bgp.wire.communities import format_community
from bgp.wire.families import Address, Prefix
from bgp.wire.iana import Origin
from ipam.address_text import text_of


class PathsQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `tortie bgp routes` asks."""

    which: str = RibView.KNOWN.value
    peer: str = ""
    """By address or name."""
    prefix: str = ""
    """A network, or an address."""
    after: str = ""
    """The `last` of the page before."""
    most: int = MOST_PREFIXES


@dataclass(frozen=True, slots=True)
class LookingGlass:
    """A speaker and its peers at one moment; asking changes nothing."""

    speaker: Speaker | None
    """None: this node does not speak BGP now."""
    desired: Mapping[Address, DesiredPeer]
    bfd: Callable[[Address], Mapping[str, object] | None] = lambda _: None
    """The BFD session beside a peer's; None: none is wanted."""

    def peers(self) -> list[dict[str, Any]]:
        """Every peer: the fields of its PeerStatus and what is configured; of a password only that there is one."""
        speaker = self.speaker
        return [self._described(speaker, one) for one in speaker.status()] if speaker is not None else []

    def _described(self, speaker: Speaker, status: PeerStatus) -> dict[str, Any]:
        found = {field.name: getattr(status, field.name) for field in fields(status)}
        peer = self.desired.get(status.address)
        if peer is None:
            return found | {"type": ""}
        return found | {
            "type": peer.kind.value,
            "resource": peer.resource,
            "filters": list(peer.filters),
            "reachable_by": str(peer.gateway) if peer.gateway is not None else None,
            "counts": counts(speaker.instance.peers[status.address]),
            "port": peer.config.port,
            "options": _options(peer),
            "bfd": self.bfd(status.address),
        }

    def peer(self, word: str) -> dict[str, Any]:
        """One peer in full, by name or address; empty while the speaker does not have it. Raises ValueError."""
        address = find_peer(self.desired, word)
        return next((found for found in self.peers() if found["address"] == address), {})

    def paths(
        self, text: str, resolution_of: Callable[[Address], Resolution] = lambda _: Resolution()
    ) -> dict[str, Any]:
        """One page of paths; `text` is a PathsQuestion in JSON. Raises ValueError.

        `resolution_of` answers how this host reaches a next hop.
        """
        if self.speaker is None:
            raise ValueError("this node does not speak BGP now; see: tortie node status")
        try:
            question = msgspec.json.decode(text or "{}", type=PathsQuestion)
        except msgspec.MsgspecError as error:
            raise ValueError(f"the question cannot be read: {error}") from error
        page = query(
            self.speaker.instance,
            Query(
                RibView(question.which),
                find_peer(self.desired, question.peer) if question.peer else None,
                ip_network(question.prefix) if question.prefix else None,
                ip_network(question.after) if question.after else None,
                question.most,
            ),
        )
        names = {address: peer.config.description for address, peer in self.desired.items()}
        return {
            "paths": [
                {**_row(seen, names), "resolved": _resolved(seen, resolution_of)} for seen in page.paths
            ],
            "last": text_of(page.last) if page.last is not None else "",
        }

    def best_path_peer(self, prefix: Prefix) -> str:
        """The peer whose path to exactly this prefix is in use: `name (address)`; empty when there is none."""
        if self.speaker is None:
            return ""
        for seen in query(self.speaker.instance, Query(prefix=prefix)).paths:
            if seen.best and seen.prefix == prefix and not seen.path.source.is_own:
                address = seen.path.source.address
                peer = self.desired.get(address) if address is not None else None
                name = peer.config.description if peer is not None else ""
                return f"{name} ({text_of(address)})" if name else text_of(address)
        return ""


def find_peer(peers: Mapping[Address, DesiredPeer], word: str) -> Address:
    """The peer of an address, of a description or of a BGPPeer. Raises ValueError."""
    try:
        address = ip_address(word)
    except ValueError:
        found = [
            address
            for address, peer in peers.items()
            if word in (peer.config.description, peer.resource or None)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{word} has several sessions: {', '.join(map(str, found))}; name one") from None
        known = ", ".join(sorted({peer.config.description for peer in peers.values()})) or "none"
        raise ValueError(f"{word} is not a peer; peers are {known}") from None
    if address not in peers:
        raise ValueError(f"{word} is not a peer; peers are {', '.join(map(str, peers)) or 'none'}")
    return address


def _resolved(seen: PathView, resolution_of: Callable[[Address], Resolution]) -> str:
    """How a path's next hop is reached, in words; empty where it is on a link, or there is none."""
    hop = seen.path.attributes.next_hop
    if hop is None or seen.path.source.is_own:
        return ""
    found = resolution_of(hop)
    by = [f"{one.gateway} dev {one.device}" for one in found.hops if int(one.gateway or hop) != int(hop)]
    why = f"next hop does not resolve: {found.why}" if found.why else ""
    return "; ".join(part for part in (f"via {', '.join(by)}" if by else "", why) if part)


def _row(seen: PathView, names: Mapping[Address, str]) -> dict[str, Any]:
    path, attributes = seen.path, seen.path.attributes
    own = path.source.is_own
    return {
        "prefix": text_of(seen.prefix),
        "next_hop": text_of(attributes.next_hop) if attributes.next_hop is not None else None,
        "peer": None if own else text_of(path.source.address),
        "name": None if own else names.get(path.source.address, ""),
        "best": seen.best,
        "used": seen.used,
        "stale": seen.stale,
        "reason": seen.reason,
        "origin": Origin(attributes.origin).name,
        "as_path": [number for _, numbers in attributes.as_path for number in numbers],
        "local_pref": attributes.local_pref,
        "med": attributes.med,
        "communities": [
            *map(format_community, attributes.communities),
            *map(format_community, attributes.large_communities),
        ],
        "originator_id": str(attributes.originator_id) if attributes.originator_id is not None else None,
        "cluster_list": [str(one) for one in attributes.cluster_list],
    }


def _options(peer: DesiredPeer) -> list[str]:
    config = peer.config
    given = (
        ("waits to be called", config.passive),
        (f"source {config.local_address}", config.local_address is not None),
        ("password", bool(config.password)),
        (f"TTL security, {config.ttl_security_hops} hops", config.ttl_security_hops > 0),
        (f"no TTL security: {peer.no_ttl_security}", bool(peer.no_ttl_security)),
        ("our reflector client", config.route_reflector_client),
        (f"next hop {config.next_hop_mode.value}", config.next_hop_mode.value != "Auto"),
        (f"local AS {config.local_as}", config.local_as is not None),
        (f"own AS allowed {config.allowed_local_as} times", config.allowed_local_as > 0),
        (f"at most {config.maximum_prefixes} prefixes", config.maximum_prefixes > 0),
        (f"sent {config.paths_sent} paths to a prefix, if it takes several", config.paths_sent > 1),
    )
    return [text for text, holds in given if holds]
