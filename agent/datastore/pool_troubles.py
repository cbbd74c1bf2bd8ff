"""Whether any pool gives this node's pods an address; before the first ADD has to find out.

A pool may be meant for those alone who ask for it by name: with assignmentMode Manual, or a nodeSelector that selects
no node at all. One that selects other nodes and not this one serves nobody here.
Promises: pure. Does not know: which blocks are free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from agent.datastore.state_cache import StateCache
from agent.trouble import Trouble, TroubleKind
from ipam.allocation.pool_selection import eligible_pools
from ipam.model import AddressRequest, AssignmentMode, HandleId, PoolRecord, Use
from ipam.selector import SelectorError, parse

MOST_NAMED = 3
LOSS = "no pod can be attached here"


def pool_troubles(state: StateCache) -> Iterator[Trouble]:
    """That there is no pool for this node's pods; nothing before this node is registered."""
    me = state.own_node
    if me is None or state.has_lost_pools:
        return
    records = state.usable_pools
    if not records:
        yield Trouble(TroubleKind.POOL, "", "there is no IP pool", LOSS, "apply an IPPool")
        return
    labels = tuple(sorted((me.metadata.labels or {}).items()))
    request = AddressRequest(HandleId(""), state.node, labels, ipv4=1, ipv6=1)
    asked = [eligible_pools(records, request, version) for version in (4, 6)]
    if any(one.records for one in asked) or any(_is_by_name(state, record) for record in records):
        return
    reasons: Sequence[str] = [text for one in asked for text in one.refused]
    shown = "; ".join(reasons[:MOST_NAMED])
    more = f"; and {len(reasons) - MOST_NAMED} more" if len(reasons) > MOST_NAMED else ""
    evidence = f"no IP pool serves this node: {shown}{more}"
    yield Trouble(TroubleKind.POOL, "", evidence, LOSS, "enable one of them, or have it select this node")


def _is_by_name(state: StateCache, record: PoolRecord) -> bool:
    """Whether a pool gives addresses to those who name it, and is meant to."""
    pool = record.pool
    if record.unreadable or pool.disabled or Use.WORKLOAD not in pool.allowed_uses:
        return False
    if pool.assignment_mode is AssignmentMode.MANUAL:
        return True
    with suppress(SelectorError):
        selector = parse(pool.node_selector)
        return not any(selector.matches(dict(node.metadata.labels or {})) for node in state.nodes.values())
    return False
