"""What is wrong with BGP sessions that the operator has to know: limits, refused passwords, peers that are away or
disabled, and our own errors.

Promises: pure. Does not know: which resource a peer comes from, how a trouble is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from agent.trouble import Trouble, TroubleKind
from bgp.peer_status import PeerStatus
from bgp.session.fsm import State
from bgp.wire.families import Address, number_of
from ipam.address_text import text_of

NO_MEMORY = "Cannot allocate memory"
"""ENOMEM, in the C library's words."""
DOWN_SECONDS = 60.0
"""A peer that is away longer is a trouble: a restart takes less."""
REFUSED_LATELY_SECONDS = 600.0
"""How long a refused connection from a peer's address is a trouble."""
MOST_NAMED = 5
"""Peers named in one sentence; the rest is counted."""


def session_troubles(
    peers: Iterable[PeerStatus], failure: str, mesh: Collection[Address], now: datetime
) -> Iterator[Trouble]:
    """The troubles of all sessions; `failure`: what ended the speaker's last step, `mesh`: who is of the node mesh."""
    peers = list(peers)
    if failure:
        evidence = f"an internal error, {failure}; its traceback is in the log"
        loss = "routes and announcements wait; it is tried again every second"
        yield Trouble(TroubleKind.PEERING, "BGP", evidence, loss, "report it with the log")
    for peer in peers:
        yield from _troubles(peer, is_mesh=peer.address in mesh)
    missing = [peer for peer in peers if _is_down_long(peer, now)]
    yield from _mesh_down([peer for peer in missing if peer.address in mesh])
    for peer in missing:
        if peer.address not in mesh:
            yield _down(f"BGP peer {_name(peer)}", _why(peer), is_kept=peer.restarting)


def _is_down_long(peer: PeerStatus, now: datetime) -> bool:
    """What is limited or disabled has a trouble of its own."""
    if peer.state is State.ESTABLISHED or peer.exceeded or peer.disabled or peer.since is None:
        return False
    return now - peer.since >= timedelta(seconds=DOWN_SECONDS)


def _mesh_down(missing: Sequence[PeerStatus]) -> Iterator[Trouble]:
    """One trouble for all nodes of the mesh without a session: in a large cluster some are always away."""
    if not missing:
        return
    named = ", ".join(f"{_name(peer)} {_why(peer)}" for peer in missing[:MOST_NAMED])
    more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
    yield _down("BGP mesh", f"{named}{more}", is_kept=all(peer.restarting for peer in missing))


def _down(about: str, evidence: str, *, is_kept: bool) -> Trouble:
    loss = "its paths are kept as stale ones" if is_kept else "it learns and teaches no routes"
    cure = "start it, or delete its Node or BGPPeer resource if it does not come back; see: tortie bgp peers"
    return Trouble(TroubleKind.PEERING, about, evidence, loss, cure)


def _why(peer: PeerStatus) -> str:
    since = f" since {peer.since:%Y-%m-%d %H:%M:%S} UTC" if peer.since is not None else ""
    return f"has no session{since}: {peer.last_error}"


def _name(peer: PeerStatus) -> str:
    return f"{peer.description} ({text_of(peer.address)})" if peer.description else text_of(peer.address)


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
    about = f"BGP peer {_name(peer)}"
    setting = "bgp.mesh_maximum_prefixes" if is_mesh else "bgp.maximum_prefixes"
    if peer.exceeded:
        loss = "its routes are gone, and it is left alone for some minutes"
        cure = f"see why it announces so much, or raise {setting} or bgp.maximum_mebibytes"
        yield Trouble(TroubleKind.PEERING, about, f"its limit was exceeded: {peer.exceeded}", loss, cure)
    elif peer.near_limit:
        loss = "behind that its session ends and its routes go"
        cure = f"see why it announces so much, or raise {setting} or bgp.maximum_mebibytes"
        yield Trouble(TroubleKind.PEERING, about, peer.near_limit, loss, cure)
    if peer.disabled:
        loss, cure = (
            "it has no session, and its routes are gone",
            f"tortie bgp enable {text_of(peer.address)}",
        )
        yield Trouble(TroubleKind.PEERING, about, peer.last_error, loss, cure)
    if peer.failure:
        evidence = f"an internal error reset its session, {peer.failure}; its traceback is in the log"
        loss = "what it announces counts again once it has announced everything in a new session"
        yield Trouble(TroubleKind.PEERING, about, evidence, loss, "report it with the log")


def refused_lately(peers: Iterable[PeerStatus], now: datetime) -> Iterator[str]:
    """Somebody may be using a peer's address."""
    since = now - timedelta(seconds=REFUSED_LATELY_SECONDS)
    for peer in peers:
        if peer.refused_at is not None and peer.refused_at >= since:
            yield (
                f"peer {peer.description} ({text_of(peer.address)}): a connection from its address was refused, "
                f"the last one at {peer.refused_at:%H:%M:%S} UTC, {peer.refused} beside a session that lived; "
                "its routes stay; if they come again and again, a pod there may call in its name: "
                "put bgp.mesh_ttl_security on, on both nodes"
            )
