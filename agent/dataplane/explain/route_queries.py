"""Answers of the control socket about the kernel's routes: those there are, with their reasons, and the next pass.

Promises: the kernel is read for the answer: what is shown is as it is now, and the pages of one question are of one
reading. An answer is one page; asking writes nothing; a wrong question is a ValueError with one sentence.
Does not know: sockets, how an answer is printed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from ipaddress import ip_network
from typing import Any

import msgspec

from agent.dataplane.explain.dry_run import dry_run
from agent.dataplane.explain.route_reasons import MOST_ROUTES, Reasons, explain_page
from agent.dataplane.inputs.facts import Facts
from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.kinds.states import ActualState, Comparison
from agent.dataplane.reconciler import Reconciler
from agent.datastore.state_cache import StateCache
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Prefix, Route, RouteKey


class RouteQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of the routes `tortie routes` asks for, and which page of them."""

    near: str = ""
    """A network or an address; empty for all."""
    foreign: bool = False
    """Others' routes only."""
    after: str = ""
    """The `last` of the page before: PREFIX, table and metric."""
    most: int = MOST_ROUTES


READING_SECONDS = 10.0
"""A next page is of the reading that the first one was made of, if it is asked for so soon."""


class RouteQueries:
    """Answers of the last pass's desired state and the kernel as it is now; owns a reading between two pages."""

    def __init__(
        self,
        reconciler: Reconciler,
        kernel: Kernel,
        cluster: StateCache,
        facts: Callable[[], Facts],
        learned_from: Callable[[Prefix], str],
    ) -> None:
        self._reconciler = reconciler
        self._kernel = kernel
        self._cluster = cluster
        self._facts = facts
        self._learned_from = learned_from
        self._reading: Mapping[RouteKey, Route] | None = None
        self._forget: asyncio.TimerHandle | None = None

    async def table(self, text: str) -> dict[str, Any]:
        """One page of routes for a RouteQuestion in JSON. Raises ValueError."""
        try:
            asked = msgspec.json.decode(text or "{}", type=RouteQuestion)
        except msgspec.MsgspecError as error:
            raise ValueError(f"the question cannot be read: {error}") from error
        actual = ActualState({Kind.ROUTE: await self._routes(is_next_page=bool(asked.after))})
        found = explain_page(
            replace(self._reconciler.snapshot(), actual=actual),
            self._reasons(),
            near=ip_network(asked.near, strict=False) if asked.near else None,
            foreign=asked.foreign,
            after=_key(asked.after) if asked.after else None,
            most=max(1, min(asked.most, MOST_ROUTES)),
        )
        last = found.last
        return {
            "routes": [asdict(route) for route in found.routes],
            "last": f"{last} {last.table} {last.metric}" if last is not None else "",
        }

    async def _routes(self, *, is_next_page: bool) -> Mapping[RouteKey, Route]:
        """The kernel's routes of now, or of the page before. Raises ValueError."""
        found = self._reading if is_next_page else None
        if found is None:
            try:
                found = await self._kernel.routes()
            except KernelError as error:
                raise ValueError(f"the kernel cannot be read: {error}") from error
        if self._forget is not None:
            self._forget.cancel()
        self._reading = found
        self._forget = asyncio.get_running_loop().call_later(READING_SECONDS, self._drop_reading)
        return found

    def _drop_reading(self) -> None:
        self._reading = self._forget = None

    async def plan(self) -> dict[str, Any]:
        """What a pass over the kernel as it is now would do. Raises ValueError."""
        reconciler, actual = self._reconciler, ActualState()
        try:
            links = await self._kernel.links()
            for kind in reconciler.kinds:
                actual.adopt(kind.kind, await kind.read(reconciler.snapshot().desired))
        except KernelError as error:
            raise ValueError(f"the kernel cannot be read: {error}") from error
        given = Comparison(reconciler.snapshot().desired, actual, links)
        return asdict(await dry_run(reconciler.kinds, given, self._reasons(), reconciler.report().held))

    def _reasons(self) -> Reasons:
        names = {
            one.spec.interface_name: one.spec.pod or one.spec.endpoint for one in self._cluster.endpoints
        }
        return Reasons(self._facts(), names, self._learned_from)


def _key(text: str) -> RouteKey:
    prefix, table, metric = text.split()
    return RouteKey(ip_network(prefix), int(table), int(metric))
