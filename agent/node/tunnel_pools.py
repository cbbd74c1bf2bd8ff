"""Whether a node needs a tunnel's address, and which pools may give it; a core.

Promises: pure. A pool's mode counts for all of its addresses as long as the pool is there: `disabled` and
`nodeSelector` say who may take new addresses from it, never how packets to those in use travel.
Does not know: which addresses a node has, how they are allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ipam.model import AssignmentMode, EncapsulationMode, Pool, Use
from ipam.selector import parse

ModeOf = Callable[[Pool], EncapsulationMode]
"""The mode of one encapsulation in a pool."""


def is_encapsulated(pool: Pool, mode: ModeOf, version: int) -> bool:
    """Whether packets to some addresses of a pool go through a tunnel of this version of IP inside."""
    return pool.cidr.version == version and mode(pool) is not EncapsulationMode.NEVER


def pools_to_try(
    pools: Iterable[Pool], mode: ModeOf, version: int, labels: Mapping[str, str]
) -> tuple[tuple[Pool, ...], ...]:
    """The pools that may give a node's tunnel an address, the better ones before; empty: none may.

    Calico's choice first: of the tunnel's own pools those that are enabled and select the node. Then any other pool
    that does, so that no block is claimed where the node may claim none; and the tunnel's own pools all the same if
    there is no such one, for a node without that address has no way back from whom it reaches.
    """
    given = [pool for pool in pools if pool.cidr.version == version and Use.TUNNEL in pool.allowed_uses]
    selecting = [
        pool for pool in given if not pool.disabled and parse(pool.node_selector).matches(dict(labels))
    ]
    own = tuple(pool for pool in given if is_encapsulated(pool, mode, version))
    tried = (
        tuple(pool for pool in selecting if pool in own),
        tuple(
            pool for pool in selecting if pool not in own and pool.assignment_mode is AssignmentMode.AUTOMATIC
        ),
        tuple(pool for pool in own if pool not in selecting),
    )
    return tuple(some for some in tried if some)
