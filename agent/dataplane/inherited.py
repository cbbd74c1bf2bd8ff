"""What an earlier life left in the kernel is not taken down while the stored value that may explain it cannot be read.

An agent that starts has no last good value of what it cannot read. So what is there at its first whole look, and was
never desired since, stays where it would be removed, as long as any such value is there; and stays as it is while that
value is a pool, for pools decide how packets travel. What this life once desired comes and goes as always.
Promises: without such a value at the first whole look nothing is ever held. Does not know: values, the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kinds.kernel_routes import RoutePlan
from agent.dataplane.kinds.object_kind import Delta
from agent.dataplane.kinds.states import Comparison

HELD = frozenset({Kind.TUNNEL, Kind.NEIGHBOUR, Kind.FDB, Kind.ROUTE, Kind.MASQUERADE})
"""Kinds whose objects follow from stored values."""
_Delta = TypeVar("_Delta", bound=Delta[Any, Any])


class Inherited:
    """The keys of what was there and was never desired, by kind."""

    def __init__(self) -> None:
        self._keys: dict[Kind, set[Any]] | None = {}
        """None: nothing is held any more, whatever cannot be read later."""

    def spare(self, kind: Kind, delta: _Delta, given: Comparison) -> _Delta:
        """A delta without what must stay as it is; asked once for each kind in each pass."""
        desired = given.desired
        if self._keys is None or not desired.complete:
            return delta
        if not desired.lost:
            self._keys = None
            return delta
        if kind not in HELD:
            return delta
        held = self._held(kind, delta, given)
        kept = held if desired.lost_pools else ()
        if held.isdisjoint(delta.delete) and not any(key in kept for key in delta.replace):
            return delta
        delete = _without(delta.delete, held)
        replaced = _without(delta.replace, kept)
        if isinstance(delta, RoutePlan):
            moves = delta.moves if len(replaced) == len(delta.replace) else ()
            return replace(delta, delete=delete, replace=replaced, moves=moves)
        return replace(delta, delete=delete, replace=replaced)

    def _held(self, kind: Kind, delta: Delta[Any, Any], given: Comparison) -> set[Any]:
        """Of a kind what was never as desired; routes are looked at one by one, for a pass compares few of them."""
        assert self._keys is not None
        if kind is Kind.ROUTE:
            wanted, actual = given.desired.dataplane.routes, given.actual.routes
            among = self._keys.get(kind, actual)
            held = {key for key in among if key in actual and wanted.get(key) != actual[key]}
        else:
            held = {*delta.delete, *delta.replace} & self._keys.get(kind, {*delta.delete, *delta.replace})
        self._keys[kind] = held
        return held


def _without(objects: Mapping[Any, Any], keys: Any) -> dict[Any, Any]:
    return {key: value for key, value in objects.items() if key not in keys}
