"""What a neighbour's core asks for: values, carried out by the router and its shell. Knows nothing else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bgp.path import Path
from bgp.peer_config import PeerConfig
from bgp.wire.families import Family
from bgp.wire.nlri import Nlri

Connection = int
"""Names a TCP connection between the shell and this core."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a TCP connection and report it as `connected` with this name."""

    connection: Connection
    config: PeerConfig


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes to write."""

    connection: Connection
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close after what was sent."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Established:
    """The Adj-RIB-Out begins: everything is to be told."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The neighbour gives these prefixes this path."""

    prefixes: Collection[Nlri]
    path: Path
    family: Family


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The neighbour has no path to these any more."""

    prefixes: Collection[Nlri]
    family: Family
    path_id: int | None = None


@dataclass(frozen=True, slots=True)
class StaleChanged:
    """These became stale, or are no longer."""

    prefixes: Collection[Nlri]
    family: Family


@dataclass(frozen=True, slots=True)
class UpdateFaults:
    """The neighbour made mistakes that cost it routes or attributes, not the session (RFC 7606)."""

    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReapplyImportPolicy:
    """Other rules hold for what the neighbour told of a family."""

    family: Family


Output = (
    Dial
    | Send
    | Close
    | Established
    | Learned
    | Withdrawn
    | StaleChanged
    | ReapplyImportPolicy
    | UpdateFaults
)
