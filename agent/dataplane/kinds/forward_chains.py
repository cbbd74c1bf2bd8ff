"""Others' forward chains: those that drop are opened to pods' packets where the setting says so.

Promises: a chain is opened while it drops and left as it was otherwise; chains themselves are others'.
Does not know: what our rules in a chain look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from agent.dataplane.kernel.dataplane_objects import ForwardChain, ForwardKey, Kind
from agent.dataplane.kinds.object_kind import Delta, PlannedStep, SingleKind
from agent.dataplane.kinds.states import Comparison, DesiredState
from agent.netlink.objects import RouteKey

OPENED = ("create", "it drops what pods send")
CLOSED = ("delete", "it drops nothing, or kernel.open_forward is off")
"""What is done with our rules in a chain, and why."""


class ForwardChains(SingleKind[ForwardKey, ForwardChain]):
    """By family, table and name."""

    kind = Kind.FORWARD

    def feature(self, value: ForwardChain) -> str:
        """Forwarding through one chain."""
        return f"forwarding through {self.text(value)}"

    async def read(self, desired: DesiredState) -> Mapping[ForwardKey, ForwardChain]:
        """Everybody's base chains at the forward hook."""
        return await self._kernel.forward_chains()

    async def diff(self, given: Comparison) -> Delta[ForwardKey, ForwardChain]:
        """Chains to open and to close, before the facts are complete as well: the setting is known from the start."""
        is_open, actual = given.desired.dataplane.open_forward, given.actual.of(self.kind)
        wanted = {key: is_open and chain.drops for key, chain in actual.items()}
        changed = {
            key: replace(chain, opened=wanted[key])
            for key, chain in actual.items()
            if chain.opened != wanted[key]
        }
        return Delta({}, changed, {})

    async def put_one(self, value: ForwardChain, was: ForwardChain | None) -> None:
        """Open or close a chain as its `opened` says."""
        await self._kernel.put_forward_chain(value)
        self._log.info("forward.opened" if value.opened else "forward.closed", chain=self.text(value))

    def is_drift(self, before: ForwardChain | None, found: ForwardChain | None) -> bool:
        """A chain that had our rules: one that came anew is no drift."""
        return before is not None and before.opened

    def count(self, objects: Mapping[ForwardKey, ForwardChain]) -> int:
        """Those that have our rules."""
        return sum(chain.opened for chain in objects.values())

    def text(self, value: ForwardChain) -> str:
        """As nft(8) names it."""
        return " ".join(value.key)

    def explain(
        self, delta: Delta[ForwardKey, ForwardChain], given: Comparison, why: Callable[[RouteKey], str]
    ) -> Iterator[PlannedStep]:
        """Rules to put in and to take out."""
        for chain in delta.replace.values():
            verb, reason = OPENED if chain.opened else CLOSED
            yield PlannedStep(self.name, verb, self.text(chain), "", reason)
