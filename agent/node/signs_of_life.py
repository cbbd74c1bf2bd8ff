"""Whether a node seems to live, by what can be seen from this machine: asked before its addresses are given away.

Promises: every sign is something seen now, in a sentence: Felix's status, which etcd forgets by itself 90 s after the
last report; a BGP session of this machine's agent; a connection that the node's BGP port takes. A machine that refuses
the connection is there, with no agent or a drained one: a doubt, and no sign. Nothing of all that is no proof that the
node is gone: it may be cut off from here. A question to the port waits PROBE_SECONDS, bears the largest TTL (RFC 5082),
and is not asked of a peer whose session is up, which would count it as an intruder.
Does not know: who asks, what follows.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

from agent.dataplane.inputs.gather import listen_port
from agent.datastore.resources.resource_types import PLURALS, BGPConfiguration, Node
from agent.datastore.resources.validation import NODE_PREFIX
from agent.datastore.storage_layout import read_valid
from ipam.address_text import text_of
from ipam.etcd.store import Store
from ipam.failures import Unreadable
from ipam.keys import escaped, resource_key
from ipam.model import Address, NodeName

PROBE_SECONDS = 1.0
LARGEST_TTL = 255
FELIX_STATUS = ("/calico/felix/v2/no-region/host/{}/status", "/calico/felix/v1/host/{}/status")
"""Written every 30 s with a lease of 90 s, by Felix with a datastore of its own."""


@dataclass(slots=True)
class Signs:
    """What was seen of a node, in sentences."""

    of_life: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    """Its machine is there, and nothing shows that its agent is."""


async def signs_of_life(store: Store, node: NodeName, sessions: Collection[Address]) -> Signs:
    """What shows that a node lives; nothing if nothing does. Raises StoreError.

    `sessions` are the peers with which this machine's agent has an established session.
    """
    signs = Signs()
    keys = [pattern.format(escaped(node)) for pattern in FELIX_STATUS]
    for key, stored in (await store.get_many(keys)).items():
        if stored.lease:
            signs.of_life.append(f"its Felix has reported within the last 90 s ({key})")
    record = await store.get(resource_key(PLURALS["Node"], node))
    try:
        known = read_valid(Node, record) if record is not None else None
    except Unreadable:
        known = None
    found = (known.ipv4, known.ipv6) if known is not None else ()
    addresses = [one.ip for one in found if one is not None]
    if up := [one for one in addresses if one in sessions]:
        signs.of_life.append(f"this machine's agent has a BGP session with {text_of(up[0])}")
        return signs
    port = await _listen_port(store, node)
    answers = await asyncio.gather(*(_takes_connections(one, port) for one in addresses))
    for address, answer in zip(addresses, answers, strict=True):
        where = f"{text_of(address)} port {port}"
        if answer:
            signs.of_life.append(f"its BGP port takes connections ({where})")
        elif answer is False:
            signs.doubts.append(
                f"its machine is there, without an agent or with a drained one ({where} refuses)"
            )
    return signs


async def _listen_port(store: Store, node: NodeName) -> int:
    settings = {}
    for name in ("default", f"{NODE_PREFIX}{node}"):
        stored = await store.get(resource_key(PLURALS["BGPConfiguration"], name))
        with suppress(Unreadable):
            if stored is not None:
                settings[name] = read_valid(BGPConfiguration, stored).spec
    return listen_port(node, settings)


async def _takes_connections(address: Address, port: int) -> bool | None:
    """Whether a port takes a connection or refuses it; None: nobody answers."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        if address.version == 6:
            connection.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, LARGEST_TTL)
        else:
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, LARGEST_TTL)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
        except ConnectionRefusedError:
            return False
        except (OSError, TimeoutError):
            return None
    return True
