"""The kernel side's looking glass as the control socket answers it: the routes with their reasons, the next pass.

Promises: an answer is one page; asking writes nothing; a wrong question is a ValueError with one sentence.
Does not know: sockets, how an answer is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from ipaddress import ip_network
from typing import Any

import msgspec

from agent.dataplane.explain.dry_run import foreseen
from agent.dataplane.explain.route_reasons import MOST_ROUTES, Reasons, page
from agent.dataplane.inputs.facts import Facts
from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.kinds.diff import ActualState
from agent.dataplane.kinds.read_kind import read
from agent.dataplane.reconciler import Reconciler
from agent.datastore.state_cache import StateCache
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Kind, Prefix, RouteKey


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `tortie routes` asks."""

    near: str = ""
    """A network or an address."""
    foreign: bool = False
    after: str = ""
    """The `last` of the page before: PREFIX, table and metric."""
    most: int = MOST_ROUTES


class RouteQueries:
    """Reads; owns nothing."""

    def __init__(
        self,
        reconciler: Reconciler,
        kernel: Kernel,
        cluster: StateCache,
        facts: Callable[[], Facts],
        told_by: Callable[[Prefix], str],
    ) -> None:
        self._reconciler = reconciler
        self._kernel = kernel
        self._cluster = cluster
        self._facts = facts
        self._told_by = told_by

    def table(self, text: str) -> dict[str, Any]:
        """One page of routes. Raises ValueError."""
        try:
            asked = msgspec.json.decode(text or "{}", type=Question)
        except msgspec.MsgspecError as error:
            raise ValueError(f"the question cannot be read: {error}") from error
        found = page(
            self._reconciler.situation(),
            self._reasons(),
            near=ip_network(asked.near, strict=False) if asked.near else None,
            foreign=asked.foreign,
            after=_key(asked.after) if asked.after else None,
            most=max(1, min(asked.most, MOST_ROUTES)),
        )
        last = found.last
        return {
            "routes": [route.plain() for route in found.routes],
            "last": f"{last} {last.table} {last.metric}" if last is not None else "",
        }

    async def plan(self) -> dict[str, Any]:
        """What a pass over the kernel as it is now would do. Raises ValueError."""
        seen = self._reconciler.situation()
        picture = ActualState()
        try:
            links = await self._kernel.links()
            for kind in Kind:
                await read(self._kernel, picture, kind)
            picture.sysctls = dict(await self._kernel.sysctls(tuple(seen.wish.dataplane.sysctls)))
        except KernelError as error:
            raise ValueError(f"the kernel cannot be read: {error}") from error
        now = replace(self._reconciler.situation(), picture=picture, links=links)
        found = foreseen(now, self._reasons(), self._reconciler.report().held)
        return {
            "steps": [asdict(step) for step in found.steps],
            "more": found.more,
            "reserves": list(found.reserves),
        }

    def _reasons(self) -> Reasons:
        names = {
            one.spec.interface_name: one.spec.pod or one.spec.endpoint for one in self._cluster.endpoints
        }
        return Reasons(self._facts(), names, self._told_by)


def _key(text: str) -> RouteKey:
    prefix, table, metric = text.split()
    return RouteKey(ip_network(prefix), int(table), int(metric))
