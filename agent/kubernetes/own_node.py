"""This machine's own Node of Kubernetes: its labels come into the record, that the network is in force goes there.

Promises: the labels that were last read hold while the API server is away; before the Node was read once nothing of it
is written, so a node that is none of Kubernetes is never called one. The condition NetworkUnavailable is False once the
network is in force, said again every CONDITION_SECONDS, and True when the agent is stopped, within STOP_SECONDS.
Does not know: who reads the labels, what "in force" means.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog

from agent.clock import Clock
from agent.kubernetes.api import KubernetesApi, node_path
from agent.kubernetes.api_errors import ApiError
from agent.kubernetes.node_labels import write_node

LOOK_SECONDS = 30.0
FIRST_SECONDS = 1.0
"""Between two looks until the network is in force."""
CONDITION_SECONDS = 300.0
STOP_SECONDS = 2.0

log = structlog.get_logger()


class OwnNode:
    """Looks at it in rounds."""

    def __init__(
        self,
        api: KubernetesApi,
        name: str,
        clock: Clock,
        in_force: Callable[[], bool],
        changed: Callable[[], None],
        stopping: Callable[[], bool] = lambda: True,
    ) -> None:
        """`changed` is called when the record is to be compared; `stopping` says whether a cancelled agent ends."""
        self._api = api
        self._name = name
        self._clock = clock
        self._in_force = in_force
        self._changed = changed
        self._stopping = stopping
        self._labels: Mapping[str, str] | None = None
        self._said_at: float | None = None

    def write(self, raw: dict[str, Any]) -> None:
        """Write into this node's record what is known of its Node."""
        if self._labels is not None:
            write_node(raw, self._name, self._labels)

    async def run(self) -> None:
        """Look in rounds until cancelled."""
        try:
            while True:
                with suppress(ApiError):  # a trouble of the API's
                    await self.look()
                pause = LOOK_SECONDS if self._said_at is not None else FIRST_SECONDS
                await asyncio.sleep(pause * random.uniform(0.9, 1.1))
        finally:
            if self._said_at is not None and self._stopping():
                with suppress(ApiError, TimeoutError, asyncio.CancelledError):
                    async with asyncio.timeout(STOP_SECONDS):
                        await self._say(is_available=False)

    async def look(self) -> None:
        """Read the labels, say the condition if it is time. Raises ApiError."""
        found = await self._api.get(f"{node_path(self._name)}?resourceVersion=0", "node")
        labels = (found.metadata.labels or {}) if found is not None else None
        if labels is not None and labels != self._labels:
            self._labels = labels
            self._changed()
        if found is None or not self._in_force():
            return
        now = self._clock.now()
        if self._said_at is None or now - self._said_at >= CONDITION_SECONDS:
            await self._say(is_available=True)
            self._said_at = now

    async def _say(self, *, is_available: bool) -> None:
        stamp = self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "NetworkUnavailable",
            "status": "False" if is_available else "True",
            "reason": "CalicoIsUp" if is_available else "CalicoIsDown",
            "message": f"Tortie is {'running' if is_available else 'shutting down'} on this node",
            "lastHeartbeatTime": stamp,
            "lastTransitionTime": stamp,
        }
        body = json.dumps({"status": {"conditions": [condition]}}).encode()
        await self._api.patch(f"{node_path(self._name)}/status", "nodes/status", body)
        log.info("kubernetes.network_condition", unavailable=not is_available)
