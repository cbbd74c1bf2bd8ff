"""A trouble: something wanted that is not in force, in the words of whoever has to mend it.

Promises: frozen values. A part of the agent that can have some has a method `troubles`, which answers those of this
moment and changes nothing; `agent/trouble_watch.py` asks them all, so a trouble that is not answered any more is over.
What makes a node unready is here, and nowhere else.
Does not know: since when there is one, who shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class TroubleKind(StrEnum):
    """What kind of thing is not in force; metrics and documents name a trouble by it."""

    NODE = "node"
    """This node's record is not as it should be: it has another address, or none of one version of IP."""
    REGISTRATION = "registration"
    """This node takes no part: it is not registered, or another machine has its name."""
    DATASTORE = "datastore"
    """etcd is away, or another cluster's."""
    MISSING = "missing"
    """What was in the datastore and is not, and is in force all the same."""
    UNREADABLE = "unreadable"
    """A stored value cannot be read."""
    CERTIFICATE = "certificate"
    """A TLS file towards etcd."""
    UNDERLAY = "underlay"
    """The node's address: no interface bears it, or another machine on the link has it too."""
    MTU = "mtu"
    """A pod's packets are too large for the way to other nodes."""
    JOURNAL = "journal"
    """A release (CNI DEL) that was written down cannot be carried out, or something cannot be written down here."""
    FILTER = "filter"
    """What workloads send is not checked."""
    POOL = "pool"
    """No pool gives this node's pods an address."""
    ADDRESS = "address"
    """A living pod's address is not allocated to it."""
    PROFILE = "profile"
    """The profile of a CNI network, without which a Felix drops what comes to its pods, cannot be made."""
    ROUTE = "route"
    """A route that is wanted is not in the kernel: there is no way to its next hop, or something is in its place."""
    TUNNEL = "tunnel"
    """A tunnel that a pool needs is not there."""
    INTERFACE = "interface"
    """An interface that routes lead to is gone, down, renamed, or in another namespace."""
    PEERING = "peering"
    """BGP: a peer, a policy or a password is not as configured; a peer is disabled, or was away for a minute."""
    KERNEL = "kernel"
    """The kernel could not be read, or refuses something else than a route or a tunnel."""
    PART = "part"
    """A part of the agent fails and is run again, or no connection can be accepted."""
    CALICO = "calico"
    """What a stopped Calico left here drops every new pod's packets."""
    LEFTOVER = "leftover"
    """What a stopped Calico left here filters pods' packets by policies that nobody updates, or cannot be read."""
    LOG = "log"
    """Nobody takes what is logged."""
    BLOCK = "block"
    """Blocks of two sizes share addresses, and nothing is assigned of what they share."""
    NAMESPACE = "namespace"
    """A namespace's labels are not known, and a pool selects by them."""
    CLOCK = "clock"
    """The machine's clock was set, or stood still."""
    PREFIX = "prefix"
    """Somebody claims or announces a prefix that may not be theirs."""
    OVERLAP = "overlap"
    """This machine bears an address that a pool may give to a pod."""
    LIMIT = "limit"
    """What Calico would do is configured, and this agent does not do it, by design (docs/limits.md)."""

    KUBERNETES = "kubernetes"
    """The API server of Kubernetes is away or refuses, or a node that it has no more cannot be given back."""


UNREADY = frozenset({TroubleKind.REGISTRATION, TroubleKind.DATASTORE, TroubleKind.POOL, TroubleKind.CALICO})
"""A node that has one of these is not ready: no pod can be attached to it. What /readyz says."""


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


def in_a_sentence(kind: TroubleKind, text: str) -> Trouble:
    """The trouble that a sentence tells whole; what stands before its first colon is what it is about."""
    about, colon, evidence = text.partition(": ")
    return Trouble(kind, about, evidence) if colon else Trouble(kind, "", text)


Source = Callable[[], Iterable[Trouble]]
"""Answers the troubles of one part of the agent, as they are now."""
