"""Keeps one nexthop object per gateway, device and flag that our routes go through.

Strategy. The kernel is asked what there is when an object is missed, and the missing ones are made; what it said is
believed until a route is refused or all routes are read again. After such a reading, the objects that no route refers
to are deleted, unless a route was written meanwhile.
Promises: an object in use is never deleted; a kernel without them, or one that hides their gateway from a dump of
routes (nexthop_compat_mode 0), gets plain routes.
Does not know: routes' forms.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count

from agent.netlink import rtnexthops, sysctl
from agent.netlink.kernel_errors import KernelError
from agent.netlink.netlink_socket import (
    BATCH_MESSAGES,
    UNSUPPORTED_ERRNOS,
    NlmsgError,
    RequestSocket,
    dump,
    reason,
)
from agent.netlink.rtnexthops import OURS, Nexthop

COMPATIBLE = "net/ipv4/nexthop_compat_mode"


class Nexthops:
    """The objects with our numbers, in the namespace the process is in."""

    def __init__(self, requests: RequestSocket, *, wanted: bool) -> None:
        self._requests = requests
        self.wanted = wanted
        self.generation = 0
        """Changes with every use; to be compared around a dump of routes."""
        self._writers = 0
        self._known: dict[Nexthop, int] = {}
        """What the kernel said last: no more than it has."""

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Routes are being written: nothing is collected meanwhile, nor from a dump of that time."""
        self._writers += 1
        self.generation += 1
        try:
            yield
        finally:
            self._writers -= 1
            self.generation += 1

    async def _read(self) -> dict[int, Nexthop | None]:
        request, kind = rtnexthops.nexthop_dump_request(), rtnexthops.RTM_NEWNEXTHOP
        return dict(await dump(request, kind, rtnexthops.decode_nexthop))

    def invalidate(self) -> None:
        """What the kernel said may hold no more."""
        self._known = {}

    async def ensure(self, hops: Collection[Nexthop]) -> dict[Nexthop, int]:
        """The number of each hop; a hop left out must be written as a plain route. Raises KernelError."""
        if not self.wanted or not hops:
            return {}
        if any(hop not in self._known for hop in hops):
            there = await self._look()
            if there is None:
                return {}
            self._known = {hop: identity for identity, hop in there.items() if hop is not None}
            self._known |= await self._make([hop for hop in hops if hop not in self._known], there)
        return {hop: self._known[hop] for hop in hops if hop in self._known}

    async def _look(self) -> dict[int, Nexthop | None] | None:
        """The objects there are; None: this kernel has none that serve. Raises KernelError."""
        try:
            there = await self._read()
        except NlmsgError as error:
            if error.code not in UNSUPPORTED_ERRNOS | {errno.EINVAL}:
                raise
            there = None
        if there is None or sysctl.read(COMPATIBLE) != "1":
            self.wanted = False
            return None
        return there

    async def move(self, was: Nexthop, now: Nexthop) -> bool:
        """Give every object of one hop another hop, and with it all its routes; whether that was done.

        Raises KernelError.
        """
        there = await self._look() if self.wanted else None
        numbers = [identity for identity, hop in there.items() if hop == was] if there else []
        if not numbers:
            return False
        self.invalidate()
        requests = [rtnexthops.nexthop_request(identity, now, replace=True) for identity in numbers]
        return not await self._requests.execute(requests)

    async def _make(self, hops: list[Nexthop], taken: Collection[int]) -> dict[Nexthop, int]:
        free = (identity for identity in count(OURS.start) if identity not in taken)
        made = dict(zip(hops, free, strict=False))
        requests = [rtnexthops.nexthop_request(identity, hop) for hop, identity in made.items()]
        # What the kernel refuses here it refuses as a plain route too, and there it says so of the route.
        refused = await self._requests.execute(requests)
        return {
            hop: identity for position, (hop, identity) in enumerate(made.items()) if position not in refused
        }

    async def collect(self, used: Collection[int], generation: int) -> None:
        """Delete some objects outside `used`, unless routes were written since `generation`.

        At most one batch, so that nothing comes between the check and the deletions. Raises KernelError.
        """
        if not self.wanted:
            return
        there = await self._read()
        self.invalidate()
        if self.generation != generation or self._writers:
            return
        unused = [identity for identity in there if identity not in used][:BATCH_MESSAGES]
        refused = await self._requests.execute([rtnexthops.nexthop_deletion(identity) for identity in unused])
        for code, words in refused.values():
            if code != errno.ENOENT:
                raise KernelError(f"deleting a nexthop object: {reason(code, words)}")
