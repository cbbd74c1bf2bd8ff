"""Masquerading, Calico's natOutgoing: our nftables tables, which give what leaves the pools the node's address.

Promises: nothing is written before all pools are known. Does not know: what the tables look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from agent.dataplane.kernel.dataplane_objects import Kind, Masquerade
from agent.dataplane.kinds.object_kind import Delta, PlannedStep, SingleKind, difference
from agent.dataplane.kinds.states import Comparison, DesiredState
from agent.netlink.objects import RouteKey

NAT_OUTGOING = "natOutgoing"
"""The one key: both tables are one object here."""


class Masquerading(SingleKind[str, Masquerade]):
    """One object or none."""

    kind = Kind.MASQUERADE

    def feature(self, value: Masquerade) -> str:
        """Masquerading as a whole."""
        return "masquerade"

    async def read(self, desired: DesiredState) -> Mapping[str, Masquerade]:
        """What the tables hold."""
        found = await self._kernel.masquerade()
        return {} if found is None else {NAT_OUTGOING: found}

    async def diff(self, given: Comparison) -> Delta[str, Masquerade]:
        """The tables to make, replace or remove."""
        wanted = given.desired.dataplane.masquerade
        desired = {NAT_OUTGOING: wanted.collapsed()} if wanted.sources else {}
        delta = difference(desired, given.actual.of(self.kind))
        return delta if given.desired.complete else Delta({}, {}, {})

    async def put_one(self, value: Masquerade, was: Masquerade | None) -> None:
        """Replace the tables."""
        await self._kernel.put_masquerade(value)

    async def remove_one(self, value: Masquerade) -> None:
        """Remove the tables."""
        await self._kernel.put_masquerade(Masquerade())

    def text(self, value: Masquerade) -> str:
        """The pools whose pods speak with the node's address."""
        return ", ".join(sorted(map(str, value.sources)))

    def explain(
        self, delta: Delta[str, Masquerade], given: Comparison, why: Callable[[RouteKey], str]
    ) -> Iterator[PlannedStep]:
        """The one step, if there is one."""
        was = str(given.actual.of(self.kind).get(NAT_OUTGOING, ""))
        for verb, objects in (("create", delta.create), ("replace", delta.replace), ("delete", delta.delete)):
            for value in objects.values():
                what = "table tortie" if verb == "delete" else self.text(value)
                yield PlannedStep(self.name, verb, what, was, "natOutgoing of the pools")
