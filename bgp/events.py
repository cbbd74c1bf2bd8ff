"""What a peer's core asks for, and counts: values, carried out by the instance or passed on to the shell, no more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from traceback import format_exception

from bgp.path import Path
from bgp.peer_config import PeerConfig
from bgp.wire.families import Family
from bgp.wire.nlri import Nlri

Connection = int
"""The name of a TCP connection between the shell and the core."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a TCP connection and report it as `connected` with this name."""

    connection: Connection
    config: PeerConfig


@dataclass(frozen=True, slots=True)
class Send:
    """Write these octets."""

    connection: Connection
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close a connection, behind what was sent."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Probe:
    """Report as `probed` once the other end's kernel has acknowledged what was sent on a connection until now."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Refused:
    """A further connection from the peer's address came to nothing, for this reason, while its session lives."""

    why: str


@dataclass(frozen=True, slots=True)
class Established:
    """A session is up and its Adj-RIB-Out empty: everything is to be advertised."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The Loc-RIB gets this path to these prefixes."""

    prefixes: Collection[Nlri]
    path: Path
    family: Family


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The Loc-RIB loses the peer's path (with this path identifier) to these prefixes."""

    prefixes: Collection[Nlri]
    family: Family
    path_id: int | None = None


@dataclass(frozen=True, slots=True)
class StaleChanged:
    """Paths of these prefixes became stale, or fresh again."""

    prefixes: Collection[Nlri]
    family: Family


@dataclass(frozen=True, slots=True)
class UpdateFaults:
    """The peer made mistakes that cost it routes or attributes, not the session (RFC 7606)."""

    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LimitNear:
    """The peer announces so much that not much more is allowed."""

    why: str


@dataclass(frozen=True, slots=True)
class PeerFailed:
    """An exception of ours in the work for this peer: a bug. Its sessions were reset, and nobody else's."""

    why: str
    """The exception, in one line."""
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> PeerFailed:
        """The event of an exception."""
        return cls(f"{type(error).__name__}: {error}", "".join(format_exception(error)))


@dataclass(frozen=True, slots=True)
class ReapplyImportPolicy:
    """The import policy of a family changed: what the peer announced is to be decided on again."""

    family: Family


Output = (
    Dial
    | Send
    | Close
    | Probe
    | Refused
    | Established
    | Learned
    | Withdrawn
    | StaleChanged
    | ReapplyImportPolicy
    | UpdateFaults
    | PeerFailed
    | LimitNear
)


@dataclass(slots=True)
class Counts:
    """What happened since this process began; it outlives sessions."""

    tolerated: int = 0
    """Messages of the peer with mistakes that cost no session (RFC 7606)."""
    ignored: int = 0
    """Those of them that had something of a family that was not negotiated."""
    failures: int = 0
    """How often an exception of ours reset its sessions."""
