"""This node's own record: its address on the underlay, its labels, its tunnel addresses.

Promises: the record is written by guarded transactions and keeps every field it does not own; a tunnel address is an
ordinary allocation, written in the same transaction as the record that names it; a node whose address another node
already has is not registered, and `trouble` says who has it.
Does not know: routes, BGP, CNI.
"""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any
from urllib.parse import urlsplit

import structlog

from agent.clock import Clock
from agent.config import NodeSettings, node_address
from agent.dataplane.kernel import Kernel, KernelError
from agent.dataplane.tunnels import uses_ipip, uses_vxlan, vtep_mac
from agent.datastore.cluster import Cluster
from agent.datastore.resources import API_VERSION, PLURALS
from ipam.allocator import Allocator, Companion
from ipam.errors import Conflict
from ipam.keys import resource_key
from ipam.model import AddressRequest, Assignment, HandleId, NodeName, Pool, Use
from ipam.selector import parse
from ipam.store import Committed, Put, Store, Unchanged, Versioned

OUTSIDE = IPv4Address("198.51.100.1")
"""TEST-NET-2 (RFC 5737): asking the kernel for the way there sends nothing and finds the default route."""
MOST_WRITES = 5
"""Attempts at one change of the record while others write it too."""

log = structlog.get_logger()


class NoAddress(Exception):
    """The node's address cannot be told; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class TunnelUse:
    """One kind of tunnel address: where it is recorded and which pools ask for it."""

    handle: str
    type: str
    path: tuple[str, ...]
    wanted: Callable[[tuple[Pool, ...]], bool]


TUNNEL_USES = (
    TunnelUse("ipip-tunnel-addr-", "ipipTunnelAddress", ("spec", "bgp", "ipv4IPIPTunnelAddr"), uses_ipip),
    TunnelUse("vxlan-tunnel-addr-", "vxlanTunnelAddress", ("spec", "ipv4VXLANTunnelAddr"), uses_vxlan),
)


class NodeRecord:
    """Keeps the record right; level-triggered: one pass compares everything and writes what differs."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        allocator: Allocator,
        kernel: Kernel,
        settings: NodeSettings,
        endpoints: tuple[str, ...],
        clock: Clock,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._allocator = allocator
        self._kernel = kernel
        self._settings = settings
        self._endpoints = endpoints
        self._clock = clock
        self._key = resource_key(PLURALS["Node"], cluster.node)
        self.trouble: str | None = None
        """Why the node is not registered as it should be, in a sentence."""
        self.found_by: str = ""
        """How the address was found, for status."""

    async def one_pass(self) -> None:
        """Register or correct the record. Raises IpamError; a fault of settings or host stays in `trouble`."""
        try:
            address = await self.address()
        except NoAddress as error:
            self.trouble = str(error)
            return
        for name, node in self._cluster.nodes.items():
            if name != self._cluster.node and node.ipv4 is not None and node.ipv4.ip == address.ip:
                self.trouble = (
                    f"node address {address.ip} is already used by node {name}; give one of them another"
                )
                return
        await self._patch(self._identity(address))
        for use in TUNNEL_USES:
            await self._settle_tunnel(use)
        self.trouble = None

    async def address(self) -> IPv4Interface:
        """The node's underlay address with its subnet: given, or the source of the kernel's route to the datastore."""
        if self._settings.address:
            self.found_by = "given"
            return node_address(self._settings.address)
        tried = []
        for host in (*await self._datastore_hosts(), OUTSIDE):
            try:
                path = await self._kernel.path_to(host)
            except KernelError as error:
                tried.append(f"{host}: {error}")
                continue
            if path.source.is_loopback:
                tried.append(f"{host}: is this machine itself")
                continue
            for link in (await self._kernel.links()).values():
                for own, length in link.addresses:
                    if own == path.source:
                        self.found_by = f"route to {host} by {link.name}"
                        return IPv4Interface((int(path.source), length))
        raise NoAddress(f"no node address found ({'; '.join(tried)}); give one as node.address")

    async def _datastore_hosts(self) -> list[IPv4Address]:
        hosts = []
        for endpoint in self._endpoints:
            name = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname or ""
            try:
                hosts.append(IPv4Address(name))
            except ValueError:
                try:
                    found = await asyncio.get_running_loop().getaddrinfo(name, None, family=socket.AF_INET)
                except OSError:
                    continue
                hosts += [IPv4Address(entry[4][0]) for entry in found[:1]]
        return hosts

    def _identity(self, address: IPv4Interface) -> Callable[[dict[str, Any]], None]:
        def write(raw: dict[str, Any]) -> None:
            _set(raw, ("spec", "bgp", "ipv4Address"), str(address))
            if self._settings.labels:
                raw["metadata"]["labels"] = {**raw["metadata"].get("labels", {}), **self._settings.labels}
            if uses_vxlan(tuple(record.pool for record in self._cluster.pools)):
                raw["spec"].setdefault("vxlanTunnelMACAddr", vtep_mac(self._cluster.node))

        return write

    async def _settle_tunnel(self, use: TunnelUse) -> None:
        node = self._cluster.node
        handle = HandleId(f"{use.handle}{node}")
        eligible = self._eligible(use)
        held = [
            item
            for item in await self._allocator.assigned(handle)
            if item.pool in {pool.name for pool in eligible}
        ]
        if eligible and held:
            await self._patch(lambda raw: _set(raw, use.path, str(held[0].address)))
            return
        current = await self._store.get(self._key)
        if current is None:
            return
        if not eligible and _get(json.loads(current.value), use.path) is None:
            return
        await self._allocator.release_handle(handle, self._companion(current, use.path, None))
        if not eligible:
            log.info("node.tunnel_address_released", type=use.type)
            return
        request = AddressRequest(
            handle=handle,
            node=node,
            labels=self.labels,
            use=Use.TUNNEL,
            pools=tuple(pool.name for pool in eligible),
            secondary=(("node", node), ("type", use.type)),
        )
        current = await self._store.get(self._key)
        if current is None:
            return
        read = current

        def companion(assignments: tuple[Assignment, ...]) -> Companion:
            return self._companion(read, use.path, str(assignments[0].address))

        assigned = await self._allocator.assign(request, companion)
        log.info("node.tunnel_address", type=use.type, address=str(assigned[0].address))

    def _eligible(self, use: TunnelUse) -> tuple[Pool, ...]:
        return tuple(
            record.pool
            for record in self._cluster.pools
            if use.wanted((record.pool,))
            and not record.pool.disabled
            and Use.TUNNEL in record.pool.allowed_uses
            and parse(record.pool.node_selector).matches(dict(self.labels))
        )

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The node's labels as the datastore has them, for selectors."""
        node = self._cluster.nodes.get(self._cluster.node)
        return tuple(sorted((node.metadata.labels or {}).items())) if node is not None else ()

    def _companion(self, current: Versioned, path: tuple[str, ...], text: str | None) -> Companion:
        raw = json.loads(current.value)
        _set(raw, path, text)
        return Companion(
            (Unchanged(self._key, current.revision),), (Put(self._key, json.dumps(raw).encode()),)
        )

    async def _patch(self, change: Callable[[dict[str, Any]], None]) -> None:
        for _ in range(MOST_WRITES):
            current = await self._store.get(self._key)
            raw = json.loads(current.value) if current is not None else self._fresh()
            before = json.dumps(raw, sort_keys=True)
            change(raw)
            if current is not None and before == json.dumps(raw, sort_keys=True):
                return
            guard = Unchanged(self._key, current.revision if current is not None else 0)
            if isinstance(
                await self._store.commit((guard,), (Put(self._key, json.dumps(raw).encode()),)), Committed
            ):
                log.info("node.registered" if current is None else "node.updated", node=self._cluster.node)
                return
        raise Conflict(f"node {self._cluster.node}: somebody else keeps writing {self._key}")

    def _fresh(self) -> dict[str, Any]:
        stamp = self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = {"name": self._cluster.node, "uid": str(uuid.uuid4()), "creationTimestamp": stamp}
        return {"kind": "Node", "apiVersion": API_VERSION, "metadata": metadata, "spec": {}}


def _get(raw: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        raw = raw.get(name) or {}
    return raw or None


def _set(raw: dict[str, Any], path: tuple[str, ...], text: str | None) -> None:
    for name in path[:-1]:
        raw = raw.setdefault(name, {})
    if text is None:
        raw.pop(path[-1], None)
    else:
        raw[path[-1]] = text


def record_inputs(cluster: Cluster) -> tuple[object, ...]:
    """What a pass depends on; while it stays the same there is no need for another."""
    return cluster.pools, cluster.nodes.get(NodeName(cluster.node))
