"""The paths that an instance knows, as its looking glass shows them."""

from __future__ import annotations

from bgp.instance import Instance
from bgp.looking_glass import PathView, Query, RibView, query
from bgp.wire.families import Address, Prefix


def paths_of(instance: Instance, prefix: Prefix) -> tuple[PathView, ...]:
    """All paths to a prefix, the best one first."""
    return query(instance, Query(prefix=prefix)).paths


def lost_by(view: PathView) -> str:
    """The rule by which a path lost; empty for the best one."""
    return "" if view.best else view.reason


def prefixes_from(instance: Instance, peer: Address) -> tuple[Prefix, ...]:
    """What a peer announced."""
    return tuple(dict.fromkeys(one.prefix for one in query(instance, Query(RibView.RECEIVED, peer)).paths))
