"""This node's own Node resource: its addresses on the underlay, its labels, its tunnel addresses.

Promises: the resource is written by guarded transactions, and every field that is not its own stays; a record that
cannot be read is kept aside and written anew (`agent.node.own_record`). A tunnel address is an ordinary allocation,
written in the same transaction as the resource that names it, and stays while its pool is there or a pool cannot be
read; a node whose address another node already has is not registered, and `trouble` says which node has it, and whether
that is an older record of this very machine; an old address that this machine has lost is given back then, so that two
nodes may swap theirs.
Does not know: routes, BGP, CNI, how addresses are found and when they change (`agent.node.own_addresses`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import structlog

from agent.clock import Clock
from agent.configuration.config import NodeSettings
from agent.dataplane.desired.desired_tunnels import uses_vxlan, vtep_mac
from agent.dataplane.inputs.facts import link_with
from agent.dataplane.kernel.calico_names import TUNL0, VXLAN6_DEVICE, VXLAN_DEVICE
from agent.dataplane.kernel.protocol import Kernel
from agent.datastore.resources.resource_types import API_VERSION, LARGEST_TTL, LARGEST_TTL_ANNOTATION, PLURALS
from agent.datastore.resources.schema import value_at
from agent.datastore.set_aside import SetAside
from agent.datastore.state_cache import StateCache
from agent.node import machine
from agent.node.address_candidates import InterfaceAddress
from agent.node.autodetection import Autodetection, DetectedAddress, NoAddress
from agent.node.incumbency import Incumbency
from agent.node.own_addresses import OwnAddresses
from agent.node.own_record import OwnRecord, parsed
from agent.node.tunnel_pools import is_encapsulated, pools_to_try
from agent.trouble import Trouble, TroubleKind
from ipam.address_text import text_of
from ipam.allocation.allocator import Allocator
from ipam.allocation.transaction import PiggybackedWrites
from ipam.etcd.store import Committed, Put, Store, Unchanged, Versioned, optimistic
from ipam.failures import Conflict, IpamError, NoPool, Refused
from ipam.keys import TUNNEL_HANDLES, resource_key
from ipam.model import Address, AddressRequest, Assignment, EncapsulationMode, HandleId, NodeName, Pool, Use

MOST_WRITES = 5
"""Attempts at one change of the resource while others write it too."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TunnelUse:
    """One kind of tunnel address: the handle of its allocation, its field in the resource, which pools ask for it."""

    handle: str
    type: str
    path: tuple[str, ...]
    mode: Callable[[Pool], EncapsulationMode]
    device: str
    version: int = 4


_IPIP = ("spec", "bgp", "ipv4IPIPTunnelAddr")
_VXLAN4, _VXLAN6 = ("spec", "ipv4VXLANTunnelAddr"), ("spec", "ipv6VXLANTunnelAddr")
TUNNEL_USES = (
    TunnelUse(TUNNEL_HANDLES[0], "ipipTunnelAddress", _IPIP, lambda pool: pool.ipip, TUNL0),
    TunnelUse(TUNNEL_HANDLES[1], "vxlanTunnelAddress", _VXLAN4, lambda pool: pool.vxlan, VXLAN_DEVICE),
    TunnelUse(TUNNEL_HANDLES[2], "vxlanV6TunnelAddress", _VXLAN6, lambda pool: pool.vxlan, VXLAN6_DEVICE, 6),
)
TUNNEL_DEVICES = {TUNL0: _IPIP, VXLAN_DEVICE: _VXLAN4, VXLAN6_DEVICE: _VXLAN6}
ADDRESS_PATHS = {4: ("spec", "bgp", "ipv4Address"), 6: ("spec", "bgp", "ipv6Address")}


class NodeResource:
    """Keeps the resource right; level-triggered: each `reconcile` compares everything and writes what differs."""

    def __init__(
        self,
        store: Store,
        state: StateCache,
        allocator: Allocator,
        kernel: Kernel,
        settings: NodeSettings,
        endpoints: tuple[str, ...],
        clock: Clock,
        set_aside: SetAside,
        *,
        mesh_ttl_security: bool = True,
        machine_id: str = "",
        machine_life: str = "",
    ) -> None:
        """`mesh_ttl_security`: the record says that other nodes may demand TTL 255 of this one's BGP packets.

        `machine_id` is this machine's; without one the record bears none, and any machine may write it. `machine_life`
        tells it from its clones; without one they are the same machine.
        """
        self._mesh_ttl_security = mesh_ttl_security
        self._machine = machine_id
        self._store = store
        self._state = state
        self._allocator = allocator
        self._kernel = kernel
        self._settings = settings
        pools = lambda: [record.pool for record in state.pools]  # noqa: E731
        self._addresses = OwnAddresses(Autodetection(kernel, settings, endpoints, pools), clock)
        self._clock = clock
        self._key = resource_key(PLURALS["Node"], state.node)
        self.incumbency = Incumbency(store, self._key, machine_id, machine_life, clock)
        """Which of several machines with this id is the node."""
        self._record = OwnRecord(state.node, set_aside, self._fresh)
        self.also: Callable[[dict[str, Any]], None] = lambda raw: None
        """Writes into the record what others say of this node; what settings say goes first."""
        self.trouble: str | None = None
        """Why the node is not registered as it should be, in a sentence."""

    @property
    def detected(self) -> dict[int, DetectedAddress | NoAddress]:
        """The addresses by version of IP, and how they were found; or why there is none."""
        return self._addresses.detected

    @property
    def is_changing(self) -> bool:
        """Whether an address is about to change: one more look soon."""
        return self._addresses.is_changing

    @property
    def found_by(self) -> str:
        """How the IPv4 address was found, for status; of a node of IPv6 alone, how that was."""
        found = [one for one in self.detected.values() if isinstance(one, DetectedAddress)]
        return found[0].how if found else ""

    @property
    def other_machine(self) -> str | None:
        """Why this machine is not the node, though it has its name; None if it is, or may become it."""
        node = self._state.own_node
        annotations = node.metadata.annotations if node is not None else None
        other = machine.other_machine(annotations, self._machine)
        if (why := self.incumbency.why_not_ours(annotations)) is not None:
            return f"node {self._state.node}: {why}"
        if node is None or other is None:
            return None
        return f"node {self._state.node} is another machine ({other}, {node.ipv4 or 'without an address'})"

    def troubles(self) -> Iterator[Trouble]:
        """That another machine has this one's name, or that the record is lost."""
        if self._key in self._state.missing:
            yield Trouble(
                TroubleKind.MISSING, self._key, "the datastore has lost it", "it is written back soon"
            )
        if (why := self.other_machine) is not None:
            yield Trouble(
                TroubleKind.REGISTRATION,
                "",
                f"{why}; this one is {self._machine}",
                "it takes no part: nothing is written, programmed or announced",
                "give it another node.name, or, if the other machine is gone for good: tortie node takeover",
            )
        yield from self._addresses.troubles()

    @property
    def tunnel_addresses(self) -> dict[Address, HandleId]:
        """The addresses of this node's tunnels and the handles they belong to, as its record has them."""
        node = self._state.own_node
        if node is None:
            return {}
        found = zip(TUNNEL_USES, (node.ipip_address, node.vxlan_address, node.vxlan6_address), strict=True)
        return {one: HandleId(f"{use.handle}{self._state.node}") for use, one in found if one is not None}

    async def reconcile(self) -> None:
        """Register or correct the resource. Raises IpamError; an error of settings or host stays in `trouble`."""
        own = self._state.own_node
        if own is not None and self.incumbency.is_challenged(own.metadata.annotations):
            await self._patch(lambda raw: None)
        recorded = {version: own.underlay(version) if own is not None else None for version in ADDRESS_PATHS}
        try:
            chosen = await self._addresses.choose(recorded)
        except NoAddress as error:
            self.trouble = str(error)
            return
        holders = {version: self._holder(address) for version, address in chosen.items()}
        wanted = {version: address for version, address in chosen.items() if holders[version] is None}
        taken = next((version for version, holder in holders.items() if holder is not None), None)
        if taken is not None and not wanted:
            self.trouble = self._conflict(chosen[taken], holders[taken])
            await self._give_back()
            return
        await self._patch(lambda raw: self._write_identity(raw, wanted))
        failed: IpamError | None = None
        for use in TUNNEL_USES:
            try:
                await self._settle_tunnel(use)
            except Refused as error:  # one tunnel's; the others are to have theirs
                failed = failed or error
        if failed is not None:
            raise failed
        self.trouble = self._conflict(chosen[taken], holders[taken]) if taken is not None else None

    def _conflict(self, address: InterfaceAddress, holder: NodeName | None) -> str:
        """A sentence: another node's record has this machine's address."""
        node = self._state.nodes.get(holder) if holder is not None else None
        annotations = node.metadata.annotations if node is not None else None
        if machine.is_same(annotations, self._machine):
            return (
                f"node address {address.ip} is that of node {holder}, an older record of this very machine (it bears "
                f"its id): make its blocks and pods node {self._state.node}'s by `tortie node takeover --from "
                f"{holder}`, or stay node {holder} by setting node.name"
            )
        return f"node address {address.ip} is already used by node {holder}; give one of them another"

    @property
    def predecessor(self) -> NodeName | None:
        """A node whose record this machine wrote before it was renamed: blocks and pods may still bear that name."""
        own = self._state.own_node
        older = (
            name
            for name, node in self._state.nodes.items()
            if name != self._state.node
            and machine.is_same(node.metadata.annotations, self._machine)
            and (own is None or node.is_older_record_of(own))
        )
        return next(older, None)

    def address_report(self) -> list[dict[str, Any]]:
        """Every address of this machine: taken or not, and why. For people."""
        rows: list[dict[str, Any]] = []
        for _, found in sorted(self.detected.items()):
            for one in found.candidates:
                how = (
                    found.how
                    if isinstance(found, DetectedAddress) and found.address.ip == one.address.ip
                    else None
                )
                holder = self._holder(one.address)
                why = f"is used by node {holder}" if holder is not None else how or one.reject_reason
                rows.append(
                    {
                        "interface": one.interface,
                        "address": one.address,
                        "taken": how is not None,
                        "why": why or "would do, another goes first",
                    }
                )
        return rows

    def _holder(self, address: InterfaceAddress) -> NodeName | None:
        for name, node in self._state.nodes.items():
            taken = node.underlay(address.version)
            if name != self._state.node and taken is not None and taken.ip == address.ip:
                return name
        return None

    async def _give_back(self) -> None:
        """Remove addresses that no interface has any more: another node may be waiting for them."""
        own = self._state.own_node
        if own is None:
            return
        links = await self._kernel.links()
        stored = {version: own.underlay(version) for version in ADDRESS_PATHS}
        lost = [
            version for version, one in stored.items() if one is not None and not link_with(links, one.ip)
        ]

        def remove(raw: dict[str, Any]) -> None:
            for version in lost:
                _set(raw, ADDRESS_PATHS[version], None)

        if lost:
            await self._patch(remove)
            log.warning("node.address_given_back", versions=lost)

    def _write_identity(self, raw: dict[str, Any], addresses: Mapping[int, InterfaceAddress]) -> None:
        for version, address in addresses.items():
            _set(raw, ADDRESS_PATHS[version], text_of(address))
        annotations = {**(raw["metadata"].get("annotations") or {}), LARGEST_TTL_ANNOTATION: LARGEST_TTL}
        if not self._mesh_ttl_security:
            del annotations[LARGEST_TTL_ANNOTATION]
        if self._machine:
            annotations[machine.ANNOTATION] = self._machine
        raw["metadata"]["annotations"] = annotations
        self.also(raw)
        if self._settings.labels:
            raw["metadata"]["labels"] = {**(raw["metadata"].get("labels") or {}), **self._settings.labels}
        pools = tuple(record.pool for record in self._state.pools)
        for version, field in ((4, "vxlanTunnelMACAddr"), (6, "vxlanTunnelMACAddrV6")):
            if uses_vxlan(pools, version):
                raw["spec"].setdefault(field, vtep_mac(self._state.node, version))

    async def _keep_tunnels(self, raw: dict[str, Any]) -> None:
        """A mended record says of this node's tunnels what others know of them: what their devices bear."""
        tunnels = await self._kernel.tunnels()
        for device, path in TUNNEL_DEVICES.items():
            address = tunnels[device].address if device in tunnels else None
            if address is not None and value_at(raw, path) is None:
                _set(raw, path, text_of(address))

    async def _settle_tunnel(self, use: TunnelUse) -> None:
        """Have the tunnel's address allocated and recorded, as long as any pool needs the tunnel.

        One that the node has stays while its pool is there, whatever becomes of the pool: others send to it.
        Raises IpamError.
        """
        node = self._state.node
        handle = HandleId(f"{use.handle}{node}")
        pools = tuple(record.pool for record in self._state.pools)
        wanted = any(is_encapsulated(pool, use.mode, use.version) for pool in pools)
        unknown = self._state.has_lost_pools
        current = await self._store.get(self._key)
        recorded = value_at(parsed(current), use.path) if current is not None else None
        held = [
            item
            for item in await self._allocator.assigned(handle)
            if unknown or any(item.address in pool for pool in pools)
        ]
        if held and (wanted or unknown):
            kept = next((one for one in held if text_of(one.address) == recorded), held[0])
            await self._patch(lambda raw: _set(raw, use.path, text_of(kept.address)))
            return
        if current is None or (unknown and not wanted) or (not wanted and recorded is None):
            return
        if not wanted and await self._is_needed(use, recorded):
            return
        if wanted and await self._put_back(use, pools, current):
            return
        await self._allocator.release_handle(handle, self._piggybacked(current, use.path, None))
        if wanted:
            await self._assign_tunnel(use, handle, pools)
        else:
            log.info("node.tunnel_address_released", type=use.type)

    async def _assign_tunnel(self, use: TunnelUse, handle: HandleId, pools: tuple[Pool, ...]) -> None:
        """An address for a tunnel that has none, of the first pools that have one. Raises IpamError."""
        read = await self._store.get(self._key)
        if read is None:
            return

        def piggyback(assignments: tuple[Assignment, ...]) -> PiggybackedWrites:
            return self._piggybacked(read, use.path, text_of(assignments[0].address))

        why = f"no pool of IPv{use.version} has Tunnel among its allowedUses"
        for some in pools_to_try(pools, use.mode, use.version, dict(self.labels)):
            named = tuple(pool.name for pool in some)
            words = {"ipv4_pools": named} if use.version == 4 else {"ipv6_pools": named}
            request = self._tunnel_request(use, handle, **words)
            try:
                assigned = await self._allocator.assign(request, piggyback)
            except Refused as error:
                why = str(error)
            else:
                log.info("node.tunnel_address", type=use.type, address=str(assigned[0].address))
                return
        raise NoPool(f"{use.device} has no address, and hosts that send through it get no answer: {why}")

    async def _is_needed(self, use: TunnelUse, text: object) -> bool:
        """Whether packets still go by a tunnel that no pool asks for: one that a pool asks for is not there yet."""
        tunnels = await self._kernel.tunnels()
        device = tunnels.get(use.device)
        if device is None or not device.up or device.address is None or text != text_of(device.address):
            return False
        pools = [record.pool for record in self._state.pools]
        wanted = {
            one.device
            for one in TUNNEL_USES
            for pool in pools
            if is_encapsulated(pool, one.mode, one.version)
        }
        return any(name not in tunnels or not tunnels[name].up for name in wanted)

    def _tunnel_request(self, use: TunnelUse, handle: HandleId, **more: Any) -> AddressRequest:
        return AddressRequest(
            handle=handle,
            node=self._state.node,
            labels=self.labels,
            use=Use.TUNNEL,
            ipv4=int(use.version == 4),
            ipv6=int(use.version == 6),
            secondary=(("node", self._state.node), ("type", use.type)),
            **more,
        )

    async def _put_back(self, use: TunnelUse, pools: tuple[Pool, ...], current: Versioned) -> bool:
        """Have the address allocated again that record or device still bear: an older datastore has forgotten it."""
        text = value_at(parsed(current), use.path)
        links = await self._kernel.links()
        on_device = [own for own, _ in links[use.device].addresses] if use.device in links else []
        known = [*_addresses((text,)), *on_device]
        wanted = next((one for one in known if any(one in pool for pool in pools)), None)
        if wanted is None:
            return False
        handle = HandleId(f"{use.handle}{self._state.node}")
        request = self._tunnel_request(use, handle, exact=(wanted,), reinstated=True)
        try:
            await self._allocator.assign(
                request, lambda _: self._piggybacked(current, use.path, text_of(wanted))
            )
        except Refused as error:
            log.warning("node.tunnel_address_lost", type=use.type, address=str(wanted), why=str(error))
            return False
        log.warning("node.tunnel_address_put_back", type=use.type, address=str(wanted))
        return True

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The node's labels as the datastore has them, for selectors."""
        node = self._state.own_node
        return tuple(sorted((node.metadata.labels or {}).items())) if node is not None else ()

    def _piggybacked(self, current: Versioned, path: tuple[str, ...], text: str | None) -> PiggybackedWrites:
        raw = parsed(current)
        self._check_machine(raw)
        _set(raw, path, text)
        return PiggybackedWrites(
            (Unchanged(self._key, current.revision),), (Put(self._key, json.dumps(raw).encode()),)
        )

    async def _patch(self, change: Callable[[dict[str, Any]], None]) -> None:
        async def attempt() -> bool | None:
            current = await self._store.get(self._key)
            raw, is_stored = self._record.document(current, lost=self._key in self._state.missing)
            self._check_machine(raw)
            if current is not None and not is_stored:
                await self._keep_tunnels(raw)
            before = json.dumps(raw, sort_keys=True)
            change(raw)
            self.incumbency.sign(raw)
            if is_stored and before == json.dumps(raw, sort_keys=True):
                return True
            guard = Unchanged(self._key, current.revision if current is not None else 0)
            put = Put(self._key, json.dumps(raw).encode())
            if not isinstance(await self._store.commit((guard,), (put,)), Committed):
                return None
            self._record.wrote(put.value)
            log.info("node.registered" if current is None else "node.updated", node=self._state.node)
            return True

        overtaken = f"node {self._state.node}: somebody else keeps writing {self._key}"
        await optimistic(attempt, MOST_WRITES, overtaken)

    def _check_machine(self, raw: dict[str, Any]) -> None:
        """Raises Conflict when another machine has the record: two that write it in turn end never."""
        annotations = machine.annotations_in(raw)
        other = machine.other_machine(annotations, self._machine) or self.incumbency.other_life(annotations)
        if other:
            raise Conflict(
                f"node {self._state.node} is another machine ({other}): {self._key} is not written"
            )

    def _fresh(self) -> dict[str, Any]:
        stamp = self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = {"name": self._state.node, "uid": str(uuid.uuid4()), "creationTimestamp": stamp}
        return {"kind": "Node", "apiVersion": API_VERSION, "metadata": metadata, "spec": {}}


def _addresses(texts: Iterable[object]) -> Iterator[Address]:
    """Those texts that are addresses."""
    for text in texts:
        with suppress(ValueError):
            yield ip_address(str(text))


def _set(raw: dict[str, Any], path: tuple[str, ...], text: str | None) -> None:
    for name in path[:-1]:
        raw = raw.setdefault(name, {})
    if text is None:
        raw.pop(path[-1], None)
    else:
        raw[path[-1]] = text
