"""Sysctls: all that are desired, those of new devices, and those that somebody wrote to.

Promises: a sysctl that does not exist (its device is not there, IPv6 is off) is passed over, and none is ever removed.
Does not know: which value is right, how a write by others is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.protocol import Refusal
from agent.dataplane.kinds.object_kind import Delta, ObjectKind, shared
from agent.dataplane.kinds.states import ActualState, Comparison, DesiredState
from agent.netlink.objects import RouteKey, Sysctl


class Sysctls(ObjectKind[str, Sysctl]):
    """By their paths below /proc/sys."""

    kind = Kind.SYSCTL

    async def read(self, desired: DesiredState) -> Mapping[str, Sysctl]:
        """All that are desired; writes to others are of no interest any more."""
        wanted = desired.dataplane.sysctls
        return shared(await self._kernel.sysctls(tuple(wanted), only=True), wanted)

    async def read_new(self, desired: DesiredState, actual: ActualState) -> Mapping[str, Sysctl]:
        """Those of devices that came since the last reading. Raises KernelError."""
        wanted, known = desired.dataplane.sysctls, actual.of(self.kind)
        new = [name for name in wanted if name not in known]
        return shared(await self.read_some(new), wanted) if new else {}

    async def read_some(self, keys: Collection[str]) -> Mapping[str, Sysctl]:
        """Those that exist."""
        return await self._kernel.sysctls(tuple(keys))

    async def diff(self, given: Comparison) -> Delta[str, Sysctl]:
        """Values that are others."""
        desired, actual = given.desired.dataplane.sysctls, given.actual.of(self.kind)
        if desired == actual:  # C's comparison, and most of them are the same objects
            return Delta({}, {}, {})
        changed = {name: one for name, one in desired.items() if name in actual and actual[name] != one}
        return Delta({}, changed, {})

    async def put(self, values: Sequence[Sysctl]) -> tuple[Refusal, ...]:
        """Set each, and read it back."""
        return await self._kernel.put_sysctls(values)

    def is_drift(self, before: Sysctl | None, found: Sysctl | None) -> bool:
        """A value that changed: a sysctl that is new or has gone came and went with its device."""
        return before is not None and found is not None

    def text(self, value: Sysctl) -> str:
        """As sysctl(8) says it, with slashes."""
        return f"{value.name} = {value.value}"

    def reason(self, verb: str, key: str, delta: Delta[str, Sysctl], why: Callable[[RouteKey], str]) -> str:
        """One for all."""
        return "pods' traffic needs it"
