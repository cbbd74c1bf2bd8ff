"""Since when each peer has a session, or none and why; the log has each change once, not each attempt.

Promises: what is kept of a peer is bounded, and gone with the peer. Does not know: sockets, how anything is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from bgp.peer import Peer
from bgp.peer_status import why_down
from bgp.session.fsm import State
from bgp.wire.families import Address

MOST_REASONS_LOGGED = 20
"""Reasons logged of one time without a session: what a peer says is text of its own, and must not fill the disk."""


class Log(Protocol):
    """What is written to."""

    def info(self, event: str, **fields: Any) -> Any:
        """Something changed."""

    def warning(self, event: str, **fields: Any) -> Any:
        """There is no session, for a reason."""


@dataclass(slots=True)
class _Known:
    is_up: bool
    sessions: int
    """How many there have been: one may take another's place between two looks."""
    since: datetime
    reasons: list[str] = field(default_factory=list)
    """Those that were logged since the session ended."""
    ended: str = ""


class SessionLog:
    """The sessions of one speaker as they come and go."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known: dict[Address, _Known] = {}

    def since(self, address: Address) -> datetime | None:
        """Since when there is a session, or none; None: nothing has happened yet."""
        known = self._known.get(address)
        return known.since if known is not None else None

    def ended(self, address: Address) -> str:
        """Why the last session ended; empty while there is one, or there was none."""
        known = self._known.get(address)
        return known.ended if known is not None else ""

    def forget(self, address: Address) -> None:
        """It is no peer any more."""
        self._known.pop(address, None)

    def look(self, address: Address, peer: Peer, wall: datetime) -> bool:
        """Something happened to a peer; answers whether a session came or ended."""
        is_up = peer.state is State.ESTABLISHED
        known, why, name = self._known.get(address), why_down(peer), peer.config.description
        before = (known.is_up, known.sessions) if known is not None else None
        if changed := before != (is_up, peer.sessions) or known is None:
            was_up = known is not None and known.is_up
            ended = why if was_up and not is_up else ""
            known = self._known[address] = _Known(is_up, peer.sessions, wall, ended=ended)
            if is_up or was_up:
                known.reasons.append(why)
                self._log.info("bgp.session", peer=str(address), name=name, state=peer.state.value, why=why)
                return True
        if (
            not is_up
            and (peer.last_error or peer.is_disabled)
            and why not in known.reasons
            and len(known.reasons) < MOST_REASONS_LOGGED
        ):
            known.reasons.append(why)
            since = known.since.isoformat(timespec="seconds")
            self._log.warning("bgp.no_session", peer=str(address), name=name, why=why, since=since)
        return changed
