"""What is wrong with BGP sessions that the operator has to know: limits, refused passwords, and our own errors.

Promises: pure. Does not know: which resource a peer comes from, how a trouble is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from agent.trouble import Trouble, TroubleKind
from bgp.peer_status import PeerStatus
from bgp.wire.families import Address, number_of
from ipam.address_text import text_of

NO_MEMORY = "Cannot allocate memory"
"""ENOMEM, in the C library's words."""
MOST_NAMED = 5
"""Peers named in one sentence; the rest is counted."""


def session_troubles(
    peers: Iterable[PeerStatus], failure: str, mesh: Collection[Address]
) -> Iterator[Trouble]:
    """The troubles of all sessions; `failure`: what ended the speaker's last step, `mesh`: who is of the node mesh."""
    if failure:
        evidence = f"an internal error, {failure}; its traceback is in the log"
        loss = "routes and announcements wait; it is tried again every second"
        yield Trouble(TroubleKind.PEERING, "BGP", evidence, loss, "report it with the log")
    for peer in peers:
        yield from _troubles(peer, is_mesh=peer.address in mesh)


def refused_keys(refused: Mapping[Address, str], optmem_needed: int) -> Iterator[Trouble]:
    """One trouble for all peers whose MD5 key (RFC 2385) the kernel did not take: they have one reason."""
    if not refused:
        return
    reason = next(iter(refused.values()))
    cure = f"net.core.optmem_max holds too few keys; sysctl -w net.core.optmem_max={optmem_needed}"
    named = ", ".join(map(text_of, sorted(refused, key=number_of)[:MOST_NAMED]))
    more = f" and {len(refused) - MOST_NAMED} more" if len(refused) > MOST_NAMED else ""
    yield Trouble(
        TroubleKind.PEERING,
        "BGP passwords",
        f"the kernel took no MD5 key for {named}{more}: {reason}",
        "they cannot connect to this node; where it waits for them there is no session",
        cure if NO_MEMORY in reason else "see whether this kernel has TCP MD5 (CONFIG_TCP_MD5SIG)",
    )


def _troubles(peer: PeerStatus, *, is_mesh: bool) -> Iterator[Trouble]:
    name = f"{peer.description} ({text_of(peer.address)})" if peer.description else text_of(peer.address)
    about = f"BGP peer {name}"
    setting = "bgp.mesh_maximum_prefixes" if is_mesh else "bgp.maximum_prefixes"
    if peer.exceeded:
        loss = "its routes are gone, and it is left alone for some minutes"
        cure = f"see why it announces so much, or raise {setting} or bgp.maximum_mebibytes"
        yield Trouble(TroubleKind.PEERING, about, f"its limit was exceeded: {peer.exceeded}", loss, cure)
    elif peer.near_limit:
        loss = "behind that its session ends and its routes go"
        cure = f"see why it announces so much, or raise {setting} or bgp.maximum_mebibytes"
        yield Trouble(TroubleKind.PEERING, about, peer.near_limit, loss, cure)
    if peer.failure:
        evidence = f"an internal error reset its session, {peer.failure}; its traceback is in the log"
        loss = "what it announces counts again once it has announced everything in a new session"
        yield Trouble(TroubleKind.PEERING, about, evidence, loss, "report it with the log")
