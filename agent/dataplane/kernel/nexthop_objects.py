"""Keeps one nexthop object per gateway, device and flag that our routes go through, and the groups they refer to.

Strategy. Every route through a gateway refers to a group, one with a single next hop to a group of one: the kernel
turns no object into a group, and the other way round, so that only what routes reach through a group can get another
next hop, lose one or have one more in one step. The objects of the next hops themselves are never changed, as several
groups share them.
The kernel is asked what there is when something is missed, and the missing ones are made; what it said is believed
until a route is refused or all routes are read again. After such a reading, the groups that no route refers to are
deleted, and objects that are in no group, unless a route was written meanwhile.
Promises: an object in use is never deleted; a kernel without them, or one that hides their gateway from a dump of
routes (nexthop_compat_mode 0), gets plain routes; one without resilient groups gets others.
Does not know: routes' forms.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

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
from agent.netlink.objects import Address
from agent.netlink.rtnexthops import OURS, Group, Hops, Nexthop, Resilience, unweighted

COMPATIBLE = "net/ipv4/nexthop_compat_mode"
UNKNOWN_TYPE = UNSUPPORTED_ERRNOS | {errno.EINVAL}
"""What a kernel without resilient groups answers (nh_check_attr_group)."""
_Object = TypeVar("_Object")


class _Objects:
    """The objects there are, as read at once."""

    def __init__(self, found: Iterable[tuple[int, Nexthop | Group | None]]) -> None:
        there = dict(found)
        self.taken = frozenset(there)
        self.singles = {number: one for number, one in there.items() if isinstance(one, Nexthop)}
        self.groups = {number: one for number, one in there.items() if isinstance(one, Group)}

    @property
    def numbers(self) -> dict[Nexthop, int]:
        """Of the objects of single next hops."""
        return {hop: number for number, hop in self.singles.items()}

    def leading(self, hops: Hops) -> list[int]:
        """The groups to exactly these."""
        return [number for number, group in self.groups.items() if group.hops(self.singles) == hops]

    def unused(self, used: Collection[int]) -> list[int]:
        """The groups outside `used`, and after them what no other group needs."""
        groups = [number for number in self.groups if number not in used]
        needed = {one for number, group in self.groups.items() if number in used for one, _ in group.members}
        rest = self.taken - self.groups.keys() - needed - set(used)
        return [*groups, *sorted(rest)]


class Nexthops:
    """The objects with our numbers, in the namespace the process is in."""

    def __init__(
        self, requests: RequestSocket, *, wanted: bool, resilience: Resilience | None = None
    ) -> None:
        self._requests = requests
        self.wanted = wanted
        self._resilience = resilience
        self.generation = 0
        """Changes with every use; to be compared around a dump of routes."""
        self._writers = 0
        self._known: dict[Hops, int] = {}
        """The groups of which the kernel said last: no more than it has."""

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

    async def _read(self) -> _Objects:
        request, kind = rtnexthops.nexthop_dump_request(), rtnexthops.RTM_NEWNEXTHOP
        return _Objects(await dump(request, kind, rtnexthops.decode_nexthop))

    def invalidate(self) -> None:
        """What the kernel said may hold no more."""
        self._known = {}

    async def ensure(self, wanted: Collection[Hops]) -> dict[Hops, int]:
        """The number of each group; one left out must be written as a plain route. Raises KernelError."""
        if not self.wanted or not wanted:
            return {}
        if any(hops not in self._known for hops in wanted):
            there = await self._look()
            if there is None:
                return {}
            found = {number: group.hops(there.singles) for number, group in there.groups.items()}
            self._known = {hops: number for number, hops in found.items() if hops is not None}
            await self._make([hops for hops in wanted if hops not in self._known], there)
        return {hops: self._known[hops] for hops in wanted if hops in self._known}

    async def _look(self) -> _Objects | None:
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

    async def move(self, was: Hops, now: Hops, referred: Collection[int]) -> bool:
        """Have every group to some next hops lead to others, and with it all its routes; whether that was done.

        Not where one of the objects in `referred`, which routes name, leads there by itself. Raises KernelError.
        """
        there = await self._look() if self.wanted else None
        groups = there.leading(was) if there is not None else []
        if there is None or not groups:
            return False
        if any(frozenset({(hop, 1)}) == was for number, hop in there.singles.items() if number in referred):
            return False
        self.invalidate()
        members = await self._members([now], there)
        if now not in members:
            return False
        requests = [
            rtnexthops.group_request(number, members[now], replaces=there.groups[number]) for number in groups
        ]
        return not await self._requests.execute(requests)

    async def leave(self, gateways: Collection[tuple[Address, int | None]]) -> int:
        """Take gateways, each on one interface or (None) on any, out of every group that has others; from how many.

        Raises KernelError.
        """
        there = await self._look() if self.wanted else None
        if there is None:
            return 0
        gone = {
            number
            for number, hop in there.singles.items()
            if (hop.gateway, None) in gateways or (hop.gateway, hop.interface) in gateways
        }
        requests = [
            rtnexthops.group_request(number, left, replaces=group)
            for number, group in there.groups.items()
            if (left := [pair for pair in group.members if pair[0] not in gone])
            if len(left) < len(group.members)
        ]
        self.invalidate()
        return len(requests) - len(await self._requests.execute(requests)) if requests else 0

    async def _make(self, wanted: list[Hops], there: _Objects) -> None:
        """Make groups; what the kernel refuses here it refuses as a plain route too, and there it says so of it."""
        members = await self._members(wanted, there)
        for resilience in dict.fromkeys((self._resilience, None)):
            left = [hops for hops in members if hops not in self._known]
            numbers = dict(zip(left, _free(there.taken | set(self._known.values())), strict=False))
            requests = [
                rtnexthops.group_request(number, members[hops], resilience=resilience)
                for hops, number in numbers.items()
            ]
            refused = await self._requests.execute(requests) if requests else {}
            self._known |= _carried_out(numbers, refused)
            if resilience is not None and any(code in UNKNOWN_TYPE for code, _ in refused.values()):
                self._resilience = None  # this kernel has none, and is not asked again

    async def _members(self, wanted: list[Hops], there: _Objects) -> dict[Hops, list[tuple[int, int]]]:
        """The numbers and weights of the next hops, which are made where they are missing.

        One that is refused (its interface has no carrier, or was just taken away) is left out together with its group.
        """
        numbers = there.numbers
        missing = dict.fromkeys(hop for hops in wanted for hop, _ in hops if hop not in numbers)
        made = dict(zip(missing, _free(there.taken), strict=False))
        requests = [rtnexthops.nexthop_request(number, hop) for hop, number in made.items()]
        refused = await self._requests.execute(requests) if requests else {}
        there.taken |= set(made.values())
        numbers |= _carried_out(made, refused)
        return {
            hops: [(numbers[hop], weight) for hop, weight in hops]
            for hops in wanted
            if all(hop in numbers for hop, _ in hops)
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
        unused = there.unused(used)[:BATCH_MESSAGES]
        refused = await self._requests.execute([rtnexthops.nexthop_deletion(identity) for identity in unused])
        for code, words in refused.values():
            if code != errno.ENOENT:
                raise KernelError(f"deleting a nexthop object: {reason(code, words)}")


def hops_of(some: Iterable[tuple[Nexthop, int]]) -> Hops:
    """What a route leads to, as groups are compared by it."""
    return unweighted(frozenset(some))


def _free(taken: Collection[int]) -> Iterator[int]:
    """Numbers of ours that are nobody's."""
    return (number for number in count(OURS.start) if number not in taken)


def _carried_out(made: dict[_Object, int], refused: Collection[int]) -> dict[_Object, int]:
    """Without those whose position was refused."""
    return {one: number for position, (one, number) in enumerate(made.items()) if position not in refused}
