"""The kernel as the reconciler sees it: read everything, carry out a step, learn that something changed.

Promises: those of every implementation, proved by tests/contract/test_kernel.py. Reads are complete or raise; a step is
idempotent (creating what is there and removing what is gone are success); errors are those of netlink/kernel_errors.
Does not know: what should exist, who owns what.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.dataplane.kernel.dataplane_objects import (
    ForwardChain,
    ForwardKey,
    Kind,
    Masquerade,
    WorkloadFilter,
)
from agent.netlink.objects import (
    Address,
    FdbEntry,
    Link,
    Neighbour,
    PolicyRule,
    Route,
    RouteKey,
    RouteTarget,
    Sysctl,
    Tunnel,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One object the kernel would not take, and why; the others of the same batch were carried out."""

    what: object
    why: str
    permanent: bool = False
    exists: bool = False
    """Something is at the key already (only when asked not to replace)."""


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A link or one of its addresses appeared, changed or went."""

    name: str
    gone: bool = False
    """It went or is down: the kernel dropped its routes and neighbours, and says nothing of them."""
    seen: Link | None = None
    """The link as the event has it, without its addresses; None when it was they that changed."""
    address: tuple[Address, int] | None = None
    """The address that came, changed or went, and its length; None: it was the link itself, or it is not known."""
    is_lost: bool = False
    """It went. With an interface's last address its routes go too, unannounced."""


@dataclass(frozen=True, slots=True)
class ObjectsChanged:
    """Somebody else changed an object of this kind."""

    kind: Kind
    route: Route | None = None
    """The one route concerned, when only one is."""
    gone: bool = False
    """It is there no more."""
    appended: bool = False
    """It is there beside one with the same key (`ip route append`)."""
    by: str | None = None
    """Who did it, where the kernel says so: the name of the program."""
    names: frozenset[str] = frozenset()
    """The sysctls that were written to, by their paths; empty: any."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """Notifications were lost: read everything again."""


KernelEvent = LinkChanged | ObjectsChanged | Overrun


@dataclass(frozen=True, slots=True)
class PathToHost:
    """The kernel's own answer to "how would you reach it": RTM_GETROUTE."""

    device: str
    source: Address
    gateway: Address | None


class Changes(Protocol):
    """A subscription: what happened since it was made waits in it."""

    async def __anext__(self) -> KernelEvent:
        """The next hint. Raises KernelError."""

    def close(self) -> None:
        """Unsubscribe."""


class Kernel(Protocol):
    """One network namespace's kernel objects."""

    async def links(self) -> Mapping[str, Link]:
        """All interfaces by name, with their addresses."""

    async def link(self, name: str) -> Link | None:
        """The interface that bears this name, with its addresses."""

    async def tunnels(self) -> Mapping[str, Tunnel]:
        """The tunnel devices with our names, whatever their attributes."""

    async def routes(self) -> Mapping[RouteKey, Route]:
        """All routes of the main tables without a TOS; of several with one key the first, which is in force."""

    async def neighbours(self, device: str) -> Mapping[Address, Neighbour]:
        """The permanent neighbours on a device."""

    async def fdb(self, device: str) -> Mapping[str, FdbEntry]:
        """The permanent forwarding entries with a destination on a VXLAN device, by MAC."""

    async def put_tunnel(self, tunnel: Tunnel) -> None:
        """Make the device exist, be up and look exactly so; its address is the only one of its version it bears."""

    async def remove_tunnel(self, name: str) -> None:
        """Delete a VXLAN device; strip and down tunl0, which belongs to the module."""

    async def received(self, tunnel: str) -> int:
        """Packets that have come out of a tunnel device; 0 when there is none. Raises KernelError."""

    async def put_routes(self, routes: Sequence[Route], *, replace: bool = True) -> tuple[Refusal, ...]:
        """Create or replace, each atomically. With `replace` false a route that is at the key stays: refused."""

    async def move_routes(self, was: RouteTarget, now: RouteTarget, keys: Collection[RouteKey]) -> bool:
        """Send all routes that have one target to another one, in one step; they are at these keys.

        False: this kernel, or one of these routes, does not allow it; they may be replaced one by one.
        """

    async def leave_next_hops(self, gateways: Collection[Address]) -> int:
        """Take gateways out of what routes share, wherever another next hop is left; from how much of it.

        One message for each group of nexthop objects, whatever the number of routes; 0: this kernel shares nothing, or
        nothing leads there among others. Which routes have changed is to be read. Raises KernelError.
        """

    async def remove_routes(self, routes: Sequence[Route]) -> tuple[Refusal, ...]:
        """Delete exactly these (destination, metric, protocol, type); a route of somebody else in their place stays."""

    async def put_entries(self, entries: Sequence[Neighbour | FdbEntry]) -> tuple[Refusal, ...]:
        """Create or replace permanent neighbours or forwarding entries."""

    async def remove_entries(self, entries: Sequence[Neighbour | FdbEntry]) -> tuple[Refusal, ...]:
        """Delete neighbours or forwarding entries."""

    async def masquerade(self) -> Masquerade | None:
        """What our nftables table holds; None when there is no such table (or no nftables)."""

    async def put_masquerade(self, masquerade: Masquerade) -> None:
        """Replace our tables, each in one nftables transaction; of a version without sources there is none after.

        Raises Unsupported without nftables' families.
        """

    async def workload_filter(self) -> WorkloadFilter | None:
        """What our table between workloads and nodes holds; None when there is none (or no nftables)."""

    async def put_workload_filter(self, wanted: WorkloadFilter | None, was: WorkloadFilter | None) -> None:
        """Have the table be so, or (None) not be, in one transaction; of one as `was` only what differs is written.

        Raises Unsupported without nftables' inet family or one of its expressions, KernelError.
        """

    async def filter_drops(self) -> Mapping[str, int]:
        """Reason -> packets that the table has dropped; its sets are not read. Nothing without a table."""

    async def forward_chains(self) -> Mapping[ForwardKey, ForwardChain]:
        """Others' base chains at the forward hook, and whether our rules are in them; none without nftables."""

    async def put_forward_chain(self, chain: ForwardChain) -> None:
        """Open or close a chain as its `opened` says; one that has gone is success. Raises KernelError."""

    async def sysctls(self, names: Sequence[str], *, only: bool = False) -> Mapping[str, Sysctl]:
        """The present values of those that exist; subscribers get events of writes to them from then on.

        With `only`, writes to others are of no interest any more.
        """

    async def put_sysctls(self, sysctls: Sequence[Sysctl]) -> tuple[Refusal, ...]:
        """Set each, and read it back."""

    async def delete_connections(self, addresses: Collection[Address]) -> int:
        """Delete the tracked connections from and to these addresses; how many. Raises Unsupported."""

    async def path_to(self, host: Address) -> PathToHost:
        """How the kernel would send a packet there. Raises NoWay, KernelError."""

    async def policy_rules(self) -> tuple[PolicyRule, ...]:
        """Which rules decide what table packets are looked up in, the kernel's own apart. Raises KernelError."""

    async def forwarded_by(self, host: Address, source: Address, arriving: str) -> str | None:
        """The interface by which a packet to a host goes on that comes from `source` by the interface `arriving`.

        None: it does not go on. Raises KernelError.
        """

    def changes(self) -> Changes:
        """Subscribe to what others change, as hints: an event is answered by reading again. Raises KernelError."""
