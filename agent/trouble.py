"""A trouble: something wanted that is not in force, in the words of whoever has to mend it.

Promises: frozen values; equal troubles are the same trouble. A part of the agent that can have some has a method
`troubles`, which answers those of this moment and changes nothing; `agent/status.py` asks them all, so a trouble that
is not answered any more is over.
Does not know: who shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class TroubleKind(StrEnum):
    """What kind of thing is not in force; metrics and documents name a trouble by it."""

    NODE = "node"
    """This node is not registered, or under another address."""
    DATASTORE = "datastore"
    """etcd is away, or is not what it was."""
    UNREADABLE = "unreadable"
    """A stored value cannot be read."""
    CERTIFICATE = "certificate"
    """A TLS file towards etcd."""
    UNDERLAY = "underlay"
    """The node's address on its interfaces."""
    MTU = "mtu"
    """A pod's packets are too large for the way to other nodes."""
    JOURNAL = "journal"
    """A release (CNI DEL) that was written down cannot be carried out, or none can be written down."""
    FILTER = "filter"
    """What workloads send is not checked."""
    ADDRESS = "address"
    """A living pod's address is not allocated to it."""
    PEERING = "peering"
    """BGP: a peer, a policy or a password is not as configured."""
    KERNEL = "kernel"
    """The kernel could not be read or written."""
    PART = "part"
    """A part of the agent fails and is run again, or no connection can be accepted."""
    CALICO = "calico"
    """What a stopped Calico left here drops or filters pods' packets."""
    LOG = "log"
    """Nobody takes what is logged."""
    PREFIX = "prefix"
    """Somebody claims or announces a prefix that may not be theirs."""
    OVERLAP = "overlap"
    """This machine bears an address that a pool may give to a pod."""
    LIMIT = "limit"
    """What Calico would do is configured, and this agent does not do it, by design (docs/limits.md)."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wanted and not in force."""

    kind: TroubleKind
    about: str
    """The object: an etcd key, a peer, an interface, a pod. Empty where there is only one."""
    evidence: str
    """What was seen."""
    loss: str = ""
    """What does not work meanwhile, or what holds instead."""
    cure: str = ""
    """What to do; empty if it ends by itself or the evidence says it."""

    def __str__(self) -> str:
        """One sentence."""
        start = f"{self.about}: {self.evidence}" if self.about else self.evidence
        return "; ".join(part for part in (start, self.loss, self.cure) if part)


Source = Callable[[], Iterable[Trouble]]
"""Answers the troubles of one part of the agent, as they are now."""
