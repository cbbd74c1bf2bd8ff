"""The leader among agents gives back what deleted Nodes of Kubernetes had; a shell.

Promises: a node goes only with proof (agent/kubernetes/deleted_nodes.py), if a question for that very Node says again
that it is not there, and if nothing shows that it lives; the proof is in the log, an undo file in the state directory.
The API server or etcd away, a list that cannot be read or without this node's own Node: nothing is given back.
Does not know: what a node has.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from agent.clock import Clock
from agent.datastore.resources.resource_types import PLURALS
from agent.datastore.writing.node_reclaim import reclaim, undo_path
from agent.kubernetes.api import NODES, KubernetesApi, node_path
from agent.kubernetes.api_errors import ApiError
from agent.kubernetes.deleted_nodes import (
    Absences,
    RegisteredNode,
    absences,
    kubernetes_name,
    proved,
)
from agent.kubernetes.leadership import Leadership
from agent.trouble import Trouble, TroubleKind
from ipam.etcd.store import Store, Unchanged
from ipam.failures import IpamError, StoreRefused, Unreadable
from ipam.keys import resource_name, resource_prefix
from ipam.model import NodeName
from ipam.stored_json import read_stored, stored_object

ROUND_SECONDS = 30.0
RECLAIMED_AT_ONCE = 10
"""Nodes in one round."""

SignsOfLife = Callable[[NodeName], Awaitable[list[str]]]
"""What shows that a node lives, a sentence each; raises StoreError."""

log = structlog.get_logger()


class NodeDeletion:
    """Looks in rounds; every agent has one, and the leader's does something."""

    def __init__(
        self,
        api: KubernetesApi,
        store: Store,
        own_kubernetes_name: str,
        node: NodeName,
        clock: Clock,
        state: Path,
        grace_seconds: float,
        signs_of_life: SignsOfLife,
        may_write: Callable[[], bool],
    ) -> None:
        self._api = api
        self._store = store
        self._own = own_kubernetes_name
        self._node = node
        self._clock = clock
        self._state = state
        self._grace_seconds = grace_seconds
        self._signs_of_life = signs_of_life
        self._may_write = may_write
        self._leadership = Leadership(store, node)
        self._absent: Absences = {}
        self._living: dict[NodeName, str] = {}
        """Nodes that Kubernetes has no more, and that live -> what shows it."""
        self._failed: dict[NodeName, str] = {}
        self._trouble = self._refused = ""
        self.counts = Counter[str]()
        """What was given back since the start: `node`, `address`, `endpoint` …"""

    @property
    def is_leader(self) -> bool:
        """Whether this agent is the one that gives back."""
        return self._leadership.is_leader

    async def run(self) -> None:
        """Look in rounds, until cancelled; then the next agent may lead at once."""
        try:
            while True:
                await self.try_round()
                await asyncio.sleep(ROUND_SECONDS * random.uniform(0.9, 1.1))
        finally:
            with suppress(IpamError, asyncio.CancelledError):
                await self._leadership.resign()

    async def try_round(self) -> None:
        """A round; what ends it is a trouble, here or of whoever was asked."""
        try:
            await self.one_round()
            self._refused = ""
        except StoreRefused as error:
            self._refused = str(error)
        except (IpamError, ApiError) as error:
            log.info("nodes.round_failed", why=str(error))

    async def one_round(self) -> None:
        """One look; what this and an earlier one prove goes. Raises ApiError, IpamError."""
        if not self._may_write():
            return
        guard = await self._leadership.step()
        if guard is None:
            self._absent, self._trouble = {}, ""
            self._living.clear()
            self._failed.clear()
            return
        present = await self._api.names(NODES, "nodes")
        if self._own not in present:
            self._absent = {}
            self._trouble = f"it has no Node {self._own}, which this agent is"
            return
        self._trouble = ""
        nodes = await self._registered()
        now = self._clock.now()
        self._absent = absences(self._absent, nodes, present, now)
        due = proved(self._absent, now, self._grace_seconds)
        for known in (self._living, self._failed):
            for name in [name for name in known if name not in due]:
                del known[name]
        for name, evidence in list(due.items())[:RECLAIMED_AT_ONCE]:
            await self._reclaim(name, self._absent[name].node, evidence, guard)

    async def _registered(self) -> Mapping[NodeName, RegisteredNode]:
        """The records that say which Node they are; this node's own is never looked at. Raises StoreError."""
        found = {}
        plural = PLURALS["Node"]
        for key, stored in (await self._store.list(resource_prefix(plural))).values.items():
            named = resource_name(key, plural)
            try:
                of = kubernetes_name(read_stored(stored, stored_object))
            except Unreadable:  # named by whoever watches; what cannot be read proves nothing
                continue
            if named is not None and of is not None and named[1] != self._node:
                found[NodeName(named[1])] = RegisteredNode(of, stored.revision)
        return found

    async def _reclaim(self, name: NodeName, record: RegisteredNode, evidence: str, guard: Unchanged) -> None:
        """Give a node's things back, if nothing speaks against it. Raises ApiError, StoreError."""
        if await self._api.get(node_path(record.kubernetes_name), "node") is not None:
            return
        if signs := await self._signs_of_life(name):
            if name not in self._living:
                log.warning("nodes.deleted_and_alive", node=name, why="; ".join(signs))
            self._living[name] = signs[0]
            return
        self._living.pop(name, None)
        undo = undo_path(self._state, name, self._clock)
        try:
            done = await reclaim(self._store, name, self._clock, undo, (guard,))
        except IpamError as error:
            log.warning("nodes.not_reclaimed", node=name, why=str(error))
            self._failed[name] = str(error)
            return
        self._failed.pop(name, None)
        self.counts.update({"node": 1, **done.removal.counts})
        self._absent = {other: one for other, one in self._absent.items() if other != name}
        log.warning(
            "nodes.reclaimed",
            node=name,
            evidence=f"{evidence}; nothing shows that it lives",
            what="; ".join(done.removal.sentences) or "its record alone",
            undo=str(undo),
        )

    def troubles(self) -> Iterator[Trouble]:
        """What keeps the leader from giving back."""
        if self._trouble:
            yield Trouble(
                TroubleKind.KUBERNETES,
                "list nodes",
                f"the API server is another cluster's: {self._trouble}",
                "nothing of deleted nodes is given back",
                "set kubernetes.node_name, or the kubeconfig of this cluster",
            )
        if self._refused:
            yield Trouble(
                TroubleKind.KUBERNETES,
                "deleted nodes",
                f"etcd refuses this agent what giving them back takes: {self._refused}",
                "it does not lead",
                "give its account the rights of docs/kubernetes-api.md, or set kubernetes.node_grace_seconds = 0",
            )
        for name, why in self._living.items():
            yield Trouble(
                TroubleKind.KUBERNETES,
                f"node {name}",
                f"Kubernetes has no such Node any more, and it lives: {why}",
                "what it has is not given back",
                "stop its agent, or register its kubelet again",
            )
        for name, why in self._failed.items():
            yield Trouble(
                TroubleKind.KUBERNETES,
                f"node {name}",
                f"Kubernetes has no such Node any more, and what it had cannot be given back: {why}",
                cure=f"it is tried again; by hand: tortie node reclaim {name}",
            )
