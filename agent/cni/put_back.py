"""Writes back what the datastore does not know of the pods that live here: an older or emptied one was put in place.

A node whose blocks somebody released while it lives is such a case.
Promises: by the guarded transactions of an ADD, so nothing that others wrote meanwhile is overwritten; an address that
somebody else holds stays theirs and is a trouble, unless the holder was a pod of this node that is gone. A few pods at
a time, each while no call works on its attachment; one look at all of them costs a handful of reads. An endpoint that
somebody deleted on purpose is not written back.
Does not know: how a record came to be, what the datastore is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import structlog

from agent.clock import Clock
from agent.cni.attachment import USUAL_INTERFACE, attachment_of, host_interface_of
from agent.cni.dependencies import Dependencies
from agent.cni.living_pods import Record
from agent.datastore.network_profiles import RFC_3339
from agent.datastore.recovery import Loss, is_deliberate
from agent.datastore.resources.endpoint_form import in_form, network_of
from agent.datastore.resources.resource_types import WorkloadEndpoint, encode
from agent.datastore.state_cache import StateCache, own_blocks
from agent.trouble import Trouble, TroubleKind
from ipam import block as blocks
from ipam.allocation.transaction import NO_WRITES, PiggybackedWrites
from ipam.etcd.store import Put, Unchanged
from ipam.failures import AddressInUse, IpamError
from ipam.model import Address, AddressRequest, Assignment, Attributes, HandleId, NodeName, Prefix

ROUND_SECONDS = 60.0
"""All living pods are looked for in the datastore this often, whatever happened."""
RETRY_SECONDS = 5.0
"""While some could not be written back."""
AT_ONCE = 32
"""Pods written back side by side: as many as share a transaction."""
PAUSE_SECONDS = 0.02
"""Between two such groups."""
SETTLE_SECONDS = 10.0
"""The longest that a start waits for the first look, and for what it wrote to be seen."""

log = structlog.get_logger()


class PutBack:
    """Looks whether every living pod is in the datastore; a shell."""

    def __init__(
        self,
        dependencies: Dependencies,
        cluster: StateCache,
        may_write: Callable[[], bool],
        clock: Clock,
        locked: Callable[[str], AbstractAsyncContextManager[None]],
        settled: Callable[[], None] = lambda: None,
        predecessor: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`may_write` says whether the datastore was read and is this node's; `locked` keeps CNI calls away.

        `settled` is called when the first look is over. `predecessor` names the node that this machine was before it
        was renamed, if its pods still stand in the datastore under that name: then nothing is written back.
        """
        self._predecessor = predecessor
        self._renamed_at: float | None = None
        self._on_settled = settled
        self._dependencies = dependencies
        self._living = dependencies.living
        self._cluster = cluster
        self._may_write = may_write
        self._clock = clock
        self._locked = locked
        self._trigger = asyncio.Event()
        self._refused: dict[HandleId, tuple[Record, str]] = {}
        """Pods that could not be written back -> why."""
        self._looked = False
        self._settled_at = clock.now() + SETTLE_SECONDS
        self._claimed: set[str] = set()
        """Blocks of the first look's writes, until the watch has reported their claims."""
        self._owned: tuple[Mapping[Prefix, NodeName], frozenset[Prefix]] = ({}, frozenset())
        """All claims, and this node's, when the datastore changed the last time."""

    @property
    def settled(self) -> bool:
        """Whether the pods of an earlier life of this agent were looked for: before, blocks may seem not to be ours."""
        if self._looked and self._claimed:
            self._claimed -= {str(block) for block in self._cluster.block_owners}
        return (self._looked and not self._claimed) or self._clock.now() > self._settled_at

    def trigger(self) -> None:
        """The datastore changed: look soon, if a living pod is lost, or a block that one has its address of."""
        if self._has_lost_a_block() or self._cluster.lost or self._refused or not self._looked:
            self._trigger.set()

    def _has_lost_a_block(self) -> bool:
        claims, before = self._owned
        if (now := self._cluster.block_owners) is claims:
            return False
        owned = own_blocks(now, self._dependencies.node)
        self._owned = now, owned
        lost = before - owned
        return any(address in block for block in lost for address in self._dependencies.living.in_use)

    def look(self) -> None:
        """The datastore is older than it was, or another one: look at everything."""
        self._trigger.set()

    async def run(self) -> None:
        """Look in rounds, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(RETRY_SECONDS if self._is_unfinished() else ROUND_SECONDS):
                    await self._trigger.wait()
            except TimeoutError:
                pass  # the periodic look
            self._trigger.clear()
            if self._may_write():
                try:
                    await self.one_round()
                except IpamError as error:
                    log.warning("restore.round_failed", why=str(error))
                    self._refused.setdefault(HandleId(""), (_NOBODY, str(error)))

    def _is_unfinished(self) -> bool:
        return bool(self._refused or self._cluster.lost or not self._looked)

    async def one_round(self) -> None:
        """Look at every living pod once, and write back what is not there. Raises StoreError."""
        self._refused.pop(HandleId(""), None)
        self._living.sweep()
        self._cluster.forget_lost()
        self._living.adopt(one for one in self._cluster.endpoints if self._cluster.is_stored(one))
        records = {record.handle: record for record in self._living}
        absent = await self._dependencies.allocator.unrecorded(
            {handle: record.addresses for handle, record in records.items()}
        )
        losses = dict(self._cluster.lost)
        wanted = [record for record in records.values() if record.handle in absent or record.key in losses]
        if self._is_being_renamed():
            wanted = []
        for handle in self._refused.keys() - {record.handle for record in wanted}:
            del self._refused[handle]
        if wanted:
            log.warning("restore.pods_unknown", count=len(wanted), first=wanted[0].name)
        for start in range(0, len(wanted), AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for record in wanted[start : start + AT_ONCE]:
                    group.create_task(self._settle(record, losses, allocated=record.handle not in absent))
            await asyncio.sleep(PAUSE_SECONDS)
        if not self._looked:
            self._looked = True
            self._on_settled()

    def _is_being_renamed(self) -> bool:
        """Whether this machine's pods stand under another name, or did a moment ago: watches are not in step."""
        now = self._clock.now()
        if self._predecessor() is not None:
            self._renamed_at = now
        return self._renamed_at is not None and now - self._renamed_at < RETRY_SECONDS

    async def _settle(self, record: Record, losses: Mapping[str, Loss], *, allocated: bool) -> None:
        async with self._locked(_interface_of(record)):
            if record.handle not in self._living:
                return  # its DEL came first
            loss = losses.get(record.key or "")
            if loss is not None and is_deliberate(loss, losses.values(), allocated=allocated):
                self._living.remove(record.handle)
                if record.endpoint is not None:
                    self._dependencies.remove_endpoint(record.endpoint)
                log.warning("restore.endpoint_deleted", pod=record.name, then="its route is removed")
                return
            try:
                done = await self._write(record, loss)
            except IpamError as error:
                self._refused[record.handle] = record, str(error)
                return
        self._refused.pop(record.handle, None)
        if not self._looked:
            self._claimed |= {str(item.block) for item in done} - {
                str(block) for block in self._cluster.block_owners
            }
        log.warning("restore.pod_written", pod=record.name, addresses=[*record.ips])

    async def _write(self, record: Record, loss: Loss | None) -> tuple[Assignment, ...]:
        """The pod's addresses and endpoint. Raises IpamError."""

        def piggyback(_: tuple[Assignment, ...]) -> PiggybackedWrites:
            if record.endpoint is None or record.key is None or loss is None:
                return NO_WRITES
            guard = Unchanged(record.key, loss.revision)
            return PiggybackedWrites(
                (guard,), (Put(record.key, encode(self._formed(record.endpoint, record))),)
            )

        request = AddressRequest(
            handle=record.handle,
            node=self._dependencies.node,
            labels=self._dependencies.labels(),
            ipv4=sum(address.version == 4 for address in record.addresses),
            ipv6=sum(address.version == 6 for address in record.addresses),
            exact=record.addresses,
            secondary=record.attributes,
            retained_for=record.retained_for,
            reinstated=True,
        )
        allocator = self._dependencies.allocator
        try:
            done = await allocator.assign(request, piggyback)
        except AddressInUse:
            gone = await self._gone_holders(record.addresses)
            if not gone:
                raise
            done = await allocator.assign(_replacing(request, gone), piggyback)
        if record.endpoint is not None and loss is not None:
            self._cluster.lost.pop(record.key or "", None)
        return done

    def _formed(self, endpoint: WorkloadEndpoint, record: Record) -> WorkloadEndpoint:
        """As an ADD writes it: an older agent may have made the record."""
        network = record.words.get("network") or network_of(endpoint)
        return in_form(endpoint, network, self._clock.wall().strftime(RFC_3339))

    async def _gone_holders(self, addresses: tuple[Address, ...]) -> frozenset[HandleId]:
        """Who holds these addresses by the datastore and was a pod of this node that is gone. Raises StoreError."""
        holders = [await self._dependencies.allocator.holder(address) for address in addresses]
        gone = (blocks.bare_handle(one.handle) for one in holders if one is not None and self._is_gone(one))
        return frozenset(handle for handle in gone if handle is not None)

    def _is_gone(self, holder: Attributes) -> bool:
        """Whether an allocation's user was a pod of this node, and none lives here by its handle."""
        words = dict(holder.secondary)
        handle = blocks.bare_handle(holder.handle)
        if handle is None or words.get("node") != self._dependencies.node or "type" in words:
            return False
        # The address is on a living pod's device: two pods of one node never had it at the same time.
        return attachment_of(words, handle) is not None and handle not in self._living

    def troubles(self) -> Iterator[Trouble]:
        """The living pods that the datastore does not know, each by its name."""
        for record, why in self._refused.values():
            if record is _NOBODY:
                continue
            yield Trouble(
                TroubleKind.ADDRESS,
                f"pod {record.name} ({', '.join(record.ips)})",
                f"it lives here, and is not in the datastore: {why}",
                "its route stands; its address may be given to another node's pod",
                "recreate one of the two pods, or create the pool again",
            )
        yield from self._living.troubles()

    def report(self) -> list[dict[str, object]]:
        """Every living pod, for `tortie ipam check` on this node."""
        return [
            {"pod": record.name, "handle": record.handle, "addresses": [*record.ips]}
            for record in self._living
        ]


_NOBODY = Record(handle=HandleId(""), ips=(), attributes=())


def _replacing(request: AddressRequest, gone: frozenset[HandleId]) -> AddressRequest:
    return replace(request, replaces=gone)


def _interface_of(record: Record) -> str:
    """The name under which calls for an attachment wait for each other."""
    if record.device is not None:
        return record.device
    words = record.words
    container, interface = attachment_of(words, record.handle) or (record.handle, USUAL_INTERFACE)
    return host_interface_of(words.get("namespace"), words.get("pod"), container, interface)
