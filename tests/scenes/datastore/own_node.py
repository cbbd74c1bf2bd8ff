"""A node's own resource over a fake store and a fake kernel, as the tests of it start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent.configuration.config import NodeSettings
from agent.datastore.resources.documents import read
from agent.datastore.resources.resource_types import encode
from agent.datastore.set_aside import SetAside
from agent.datastore.state_cache import NODES, POOLS, StateCache
from agent.lab.lab_plan import Mode, with_mode
from agent.lab.lifecycle import SEED_POOL
from agent.node.node_resource import NodeResource
from ipam.allocation.allocator import Allocator
from ipam.etcd.store import Put
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.fakes.clock import SetClock
from tests.fakes.kernel import FakeKernel
from tests.fakes.store import FakeStore

ME = NodeName("node1")
KEY = resource_key("nodes", ME)


class World:
    """A node resource over fakes; `look` brings the cached state up to the store."""

    def __init__(
        self,
        address: str = "172.26.0.11/20",
        endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",),
        aside: Path = Path("/nonexistent"),
        store: FakeStore | None = None,
    ) -> None:
        self.store = store or FakeStore()
        self.state = StateCache(ME)
        self.kernel = FakeKernel()
        self.clock = SetClock()
        self.allocator = Allocator(self.store, self.clock.wall, lambda: self.state.pools)
        self._settings, self._endpoints = NodeSettings(address=address, labels={"rack": "r1"}), endpoints
        self._aside = aside
        self.restart()

    def restart(self, **more: Any) -> None:
        """A new agent on the same machine."""
        self.resource = NodeResource(
            self.store,
            self.state,
            self.allocator,
            self.kernel,
            self._settings,
            self._endpoints,
            self.clock,
            SetAside(self._aside),
            **more,
        )

    async def look(self) -> None:
        for prefix in (POOLS, NODES):
            self.state.replace(prefix, (await self.store.list(prefix)).values)

    async def pool(self, mode: Mode) -> None:
        text = json.dumps(with_mode(json.loads(SEED_POOL.read_text()), mode, ipip=True))
        resource = read(text, "pool")[0].resource
        await self.store.commit((), (Put(resource_key("ippools", resource.metadata.name), encode(resource)),))

    async def passed(self) -> dict[str, Any]:
        for _ in range(2):
            await self.look()
            await self.resource.reconcile()
        await self.look()
        return json.loads(self.store.copy()[KEY])  # type: ignore[no-any-return]
