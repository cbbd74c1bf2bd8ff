"""A reconciler at work in a test: run it, trigger it, wait for a pass after which something holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agent.clock import SystemClock
from agent.dataplane.cooperative import run_now
from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.kinds.kernel_routes import RoutePlan, route_diff
from agent.dataplane.kinds.states import ActualState, Comparison
from agent.dataplane.reconciler import DesiredState, Reconciler
from agent.dataplane.trigger import PassTiming
from agent.netlink.objects import Link, RouteKey

PATIENCE_SECONDS = 20.0
QUIET_PASSES = 4
IMPATIENT = PassTiming(share=1e6, grace_seconds=0.0, overrun_seconds=0.01, error_seconds=0.01)


@dataclass
class Lines:
    """A log that remembers."""

    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    bound: dict[str, Any] = field(default_factory=dict)

    def info(self, event: str, **fields: Any) -> None:
        self.said.append((event, {**self.bound, **fields}))

    warning = error = debug = info

    def bind(self, **fields: Any) -> Lines:
        return Lines(self.said, {**self.bound, **fields})

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.said if name == event]


class Bench:
    """A reconciler whose desired state a test sets."""

    def __init__(self, kernel: Kernel, dataplane: Dataplane | None = None, **options: Any) -> None:
        self.desired = DesiredState(dataplane or Dataplane(), complete=True, bgp_complete=True)
        self.log = Lines()
        self.seen: list[Mapping[str, Link]] = []
        self._passed = asyncio.Event()
        options.setdefault("timing", IMPATIENT)
        self.reconciler = Reconciler(
            kernel, self._compute_desired, SystemClock(), self.log, on_pass=self._on_pass, **options
        )

    async def _compute_desired(self, links: Mapping[str, Link]) -> DesiredState:
        self.seen.append(links)
        return self.desired

    def _on_pass(self) -> None:
        self._passed.set()
        self._passed = asyncio.Event()

    async def until(self, holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for a pass after which `holds`."""
        async with asyncio.timeout(seconds):
            while not holds():
                await self._passed.wait()

    async def passed(self) -> None:
        """Wait for a whole pass that begins now."""
        await self.reconciler.wait_for_routes([], PATIENCE_SECONDS)

    async def quiet(self) -> None:
        """Wait until the echoes of our own writes came and led to nothing more."""
        for _ in range(QUIET_PASSES):
            await self.passed()


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    """Run it until the block ends; the first pass is over when the block begins."""
    task = asyncio.create_task(bench.reconciler.run())
    try:
        await bench.passed()
        yield bench
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def route_plan(
    desired: DesiredState,
    actual: ActualState,
    links: Mapping[str, Link],
    keys: Collection[RouteKey] | None = None,
) -> RoutePlan:
    """What a pass would do with the routes at these keys, or at all."""
    return run_now(route_diff(Comparison(desired, actual, links, keys), Ownership()))
