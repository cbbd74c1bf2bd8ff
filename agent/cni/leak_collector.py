"""Frees what runtimes forgot: an address is released only with proof that its pod is gone, and the proof is logged.

Addresses retained for a name are freed when their time is over. Endpoints without a device go with what is left of
their addresses, so that none stays for ever. This node's claims that were left unfinished are ended.
Promises: two looks with a pause between them must agree (ipam.check.leak_proof); address and endpoint go in one
transaction, guarded by the endpoint's revision; a datastore that is away, and whatever is uncertain, frees
nothing; an allocation lives while its own container's veth, or its namespace, does, whoever has the veth's name by now.
What cannot be read or released is left alone, and keeps no other from its look.
Does not know: what proves a leak, CNI.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress

import structlog

from agent.clock import Clock
from agent.cni.attachment import (
    USUAL_INTERFACE,
    attachment_of,
    handle_of_endpoint,
    host_interface_of,
)
from agent.cni.dependencies import Dependencies
from agent.datastore.resources.resource_types import WorkloadEndpoint
from agent.datastore.state_cache import StateCache, own_blocks
from agent.datastore.storage_layout import key_of
from agent.netlink.kernel_errors import KernelError
from ipam import block as blocks
from ipam.allocation.release import guarded_address
from ipam.allocation.stale_claims import end_stale_claims, unfinished_claims
from ipam.allocation.sticky import is_retained, is_retention_over
from ipam.allocation.transaction import PiggybackedWrites, read_block
from ipam.check.leak_proof import PAUSE_SECONDS, Observation, prove_leak
from ipam.etcd.store import Delete, Unchanged
from ipam.failures import Conflict, IpamError, Malformed, Unreadable
from ipam.keys import block_key
from ipam.model import Address, Affinity, Attributes, Block, HandleId, NodeName, Prefix

ROUND_SECONDS = 300.0
"""Between two rounds when nothing is suspected; a suspect is looked at again as soon as it may be proved."""

MOST_ORPHANS = 100
"""Endpoints without a device that are looked at in one round."""

log = structlog.get_logger()


class LeakCollector:
    """Looks at every allocation in this node's own blocks."""

    def __init__(self, dependencies: Dependencies, cluster: StateCache, clock: Clock) -> None:
        self._dependencies = dependencies
        self._cluster = cluster
        self._clock = clock
        self._first: dict[Address, Observation] = {}
        """The earlier look at each allocation that seemed abandoned."""
        self._orphans: dict[Address, Observation] = {}
        """The earlier look at each endpoint without a device, by its first address."""
        self._unfinished: dict[Prefix, tuple[Affinity, int]] = {}
        """The claims that were not confirmed at an earlier look, that was long enough ago."""
        self._unfinished_at = -PAUSE_SECONDS

    async def run(self) -> None:
        """Look at this node's allocations in rounds, until cancelled."""
        while True:
            is_due = self._first or self._orphans or self._unfinished
            wait = PAUSE_SECONDS if is_due else ROUND_SECONDS
            await asyncio.sleep(
                wait * random.uniform(1.0, 1.1) if self._dependencies.not_ready() is None else 1.0
            )
            try:
                await self.one_round()
            except IpamError as error:
                log.warning("garbage.round_failed", why=str(error))

    async def one_round(self) -> None:
        """One look at everything; frees what this and an earlier look prove. Raises IpamError."""
        if self._dependencies.not_ready() is not None:
            return
        self._dependencies.living.sweep()
        keys = [block_key(cidr) for cidr in own_blocks(self._cluster.block_owners, self._dependencies.node)]
        suspects: dict[Address, Observation] = {}
        for stored in (await self._dependencies.store.get_many(keys)).values():
            try:
                block = read_block(stored).block
            except Unreadable:  # named by `agent.datastore.own_values`
                continue
            await self._release_expired(block)
            for look in await self._looks(block):
                earlier = self._first.get(look.address)
                evidence = prove_leak(earlier, look) if earlier is not None else None
                if evidence is not None and look.handle is not None:
                    if not await self._is_freed(look.address, look.handle, evidence):
                        suspects[look.address] = look
                elif earlier is not None and earlier.allocation == look.allocation:
                    suspects[look.address] = earlier
                else:
                    suspects[look.address] = look
        self._first = suspects
        await self._collect_orphans()
        await self._end_stale_claims()

    async def _end_stale_claims(self) -> None:
        """Compare this node's unfinished claims with those of a look long enough ago. Raises StoreError."""
        now = self._clock.now()
        if now - self._unfinished_at < PAUSE_SECONDS:
            return
        store = self._dependencies.store
        unfinished = await unfinished_claims(store, self._dependencies.node)
        for sentence in await end_stale_claims(store, self._unfinished, unfinished):
            log.warning("garbage.claim_ended", evidence=sentence)
        self._unfinished, self._unfinished_at = unfinished, now

    async def _collect_orphans(self) -> None:
        """One look at each endpoint of this node without a device; one that is proved an orphan goes.

        Its addresses may lie in another node's block, or be nobody's any more: then no allocation here leads to it.
        """
        suspects: dict[Address, Observation] = {}
        found = [one for one in self._cluster.endpoints if one.addresses and self._is_deserted(one)]
        for endpoint in found[:MOST_ORPHANS]:
            if endpoint.addresses[0] in self._first:
                continue  # its allocation is looked at, and the endpoint goes with that
            try:
                assigned = await self._dependencies.allocator.allocations(handle_of_endpoint(endpoint))
            except Unreadable as error:  # nobody knows what it holds; the others go on
                log.info("garbage.not_looked_at", endpoint=endpoint.metadata.name, why=str(error))
                continue
            look = self._look_at_endpoint(endpoint, assigned)
            earlier = self._orphans.get(look.address)
            evidence = prove_leak(earlier, look) if earlier is not None else None
            if evidence is not None and look.handle is not None:
                named = f"endpoint {endpoint.metadata.name}: {evidence}"
                if await self._is_freed(look.address, look.handle, named):
                    continue
            same = earlier is not None and earlier.allocation == look.allocation
            suspects[look.address] = earlier if same and earlier is not None else look
        self._orphans = suspects

    def _is_deserted(self, endpoint: WorkloadEndpoint) -> bool:
        return handle_of_endpoint(
            endpoint
        ) not in self._dependencies.living and not self._dependencies.pods.exists(
            endpoint.spec.interface_name
        )

    def _look_at_endpoint(self, endpoint: WorkloadEndpoint, assigned: tuple[Attributes, ...]) -> Observation:
        namespaces = [
            words["netns"] for words in (dict(one.secondary) for one in assigned) if "netns" in words
        ]
        now = self._cluster.endpoint(key_of(endpoint)) or endpoint  # written anew, it has another revision
        revision = now.metadata.resource_version
        return Observation(
            address=endpoint.addresses[0],
            handle=handle_of_endpoint(endpoint),
            sequence=int(revision) if revision is not None else None,
            made_by=NodeName(endpoint.spec.node),
            boot_of_allocation=None,
            seen_on=self._dependencies.node,
            boot_now=self._dependencies.boot_id,
            namespace_exists=any(map(os.path.exists, namespaces)),
            veth_exists=self._dependencies.pods.exists(endpoint.spec.interface_name),
            used_by=None,
            at=self._clock.now(),
        )

    async def _release_expired(self, block: Block) -> None:
        """Free what was retained long enough; that the time is over is all the proof it takes."""
        now = self._clock.wall()
        for ordinal, attributes in blocks.allocated(block):
            if is_retention_over(attributes, now):
                over = guarded_address(block, ordinal, attributes)
                with suppress(Conflict, Malformed):  # its name came back for it, or its handle cannot be read
                    await self._dependencies.allocator.release_addresses([over])
                    log.info("sticky.expired", address=str(over.address), name=attributes.handle)

    async def _looks(self, block: Block) -> list[Observation]:
        """What a look at each allocation shows; those of a pod that is plainly there are left out."""
        found = []
        sequence_of = dict(block.sequence_of)
        for ordinal, index in enumerate(block.allocations):
            if index is None or is_retained(block.attributes[index]):
                continue
            address = blocks.address_of(block, ordinal)
            if address in self._dependencies.living.in_use:
                continue  # whoever is said to hold it: a pod that lives here has it
            look = await self._look(address, block.attributes[index], sequence_of.get(ordinal))
            rebooted = look.boot_of_allocation not in (None, look.boot_now)
            if rebooted or not (look.namespace_exists or look.veth_exists):
                found.append(look)
        return found

    async def _look(self, address: Address, attributes: Attributes, sequence: int | None) -> Observation:
        words = dict(attributes.secondary)
        usual = words.get("interface", USUAL_INTERFACE)
        container = (
            (attributes.handle or "").removeprefix(f"{words.get('network', '')}.").removesuffix(f".{usual}")
        )
        interface = host_interface_of(words.get("namespace"), words.get("pod"), container, usual)
        netns = words.get("netns")
        # A tunnel's address and what was assigned without a namespace's path are never proved abandoned.
        namespace_exists = netns is None or "type" in words or os.path.exists(netns)
        veth_exists = self._dependencies.pods.exists(interface)
        if veth_exists and await self._is_of_another(interface, words, attributes.handle):
            veth_exists = False
            if netns is not None and "type" not in words:
                namespace_exists = await self._has_interface(netns, usual, interface)
        return Observation(
            address=address,
            handle=attributes.handle,
            sequence=sequence,
            made_by=NodeName(words["node"]) if "node" in words else None,
            boot_of_allocation=words.get("boot"),
            seen_on=self._dependencies.node,
            boot_now=self._dependencies.boot_id,
            namespace_exists=namespace_exists,
            veth_exists=veth_exists,
            used_by=self._user(address, attributes.handle) if "type" not in words else words["type"],
            at=self._clock.now(),
        )

    async def _is_of_another(self, device: str, words: dict[str, str], handle: HandleId | None) -> bool:
        """Whether a later container of the same pod has the device: it is called after the pod, not the container."""
        attachment = attachment_of(words, handle) if handle is not None else None
        if attachment is None:
            return False
        try:
            owner = await self._dependencies.pods.owner(device)
        except KernelError:
            return False
        return owner not in (None, "", attachment[0])  # on Calico's own devices nothing is written

    async def _has_interface(self, netns: str, interface: str, device: str) -> bool:
        """Whether a namespace has an interface of this name: it may be left, and empty, when its veth was replaced."""
        try:
            return (await self._dependencies.pods.state(netns, interface, device)).inside is not None
        except KernelError:  # also when there is no such namespace
            return os.path.exists(netns)

    def _user(self, address: Address, handle: HandleId | None) -> str | None:
        """Who else names the address: another container's endpoint here, or a node for its tunnel."""
        for endpoint in self._cluster.endpoints:
            if address in endpoint.addresses and handle_of_endpoint(endpoint) != handle:
                return f"endpoint {endpoint.metadata.name}"
        for name, node in self._cluster.nodes.items():
            if address in (node.ipip_address, node.vxlan_address, node.vxlan6_address):
                return f"node {name}"
        return None

    async def _is_freed(self, address: Address, handle: HandleId, evidence: str) -> bool:
        """Free an address; no, if it was written meanwhile, or what it needs cannot be read. Raises StoreError."""
        try:
            await self._free(address, handle, evidence)
        except (Conflict, Malformed) as error:
            log.warning("garbage.not_freed", address=str(address), why=str(error))
            return False
        return True

    async def _free(self, address: Address, handle: HandleId, evidence: str) -> None:
        found = self._cluster.find_endpoint(
            lambda endpoint: address in endpoint.addresses and handle_of_endpoint(endpoint) == handle
        )
        piggyback = PiggybackedWrites()
        if found is not None:
            key = found[0]
            stored = await self._dependencies.store.get(key)
            if stored is not None:
                piggyback = PiggybackedWrites((Unchanged(key, stored.revision),), (Delete(key),))
        await self._dependencies.allocator.release_handle(handle, piggyback)
        if found is not None:
            self._dependencies.remove_endpoint(found[1])
        log.warning("garbage.freed", evidence=evidence)
