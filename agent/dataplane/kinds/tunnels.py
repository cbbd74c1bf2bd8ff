"""Tunnel devices: tunl0 and our VXLAN devices.

Strategy of their removal. A tunnel that is not desired any more is left for as long as others still send through it:
their facts may be older than ours. How much older cannot be known, but what comes out of the tunnel can be counted: it
goes when nothing has come for a while. Somebody who never stops does not hold it for ever. While a tunnel that is
desired cannot be made, none of the others goes: packets still need them.
Promises: tunl0 is never deleted, as it belongs to its module; a device is ours by its name.
Does not know: how a device is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.kinds.object_kind import Delta, SingleKind, difference
from agent.dataplane.kinds.states import Comparison, DesiredState
from agent.netlink.objects import Tunnel

MOST_GRACE_SECONDS = 300.0
"""From the moment on at which a tunnel was not desired any more, whatever still comes out of it."""


@dataclass(frozen=True, slots=True)
class _Unwanted:
    since: float
    """Monotonic seconds, like the next."""
    quiet_since: float
    received: int


class TunnelGracePeriod:
    """Which tunnels are not desired any more, and since when nothing came out of them."""

    def __init__(self, seconds: float) -> None:
        """`seconds` without a packet end it."""
        self._seconds = seconds
        self._unwanted: dict[str, _Unwanted] = {}

    def over(self, received: Mapping[str, int], now: float) -> list[str]:
        """Of the tunnels unwanted now, with the packets received so far, those that have been quiet long enough.

        One that is left out is desired again, and begins anew when it is not.
        """
        self._unwanted = {name: self._seen(name, packets, now) for name, packets in received.items()}
        return [name for name, unwanted in self._unwanted.items() if now >= self._end(unwanted)]

    def _seen(self, name: str, received: int, now: float) -> _Unwanted:
        known = self._unwanted.get(name)
        if known is None:
            return _Unwanted(now, now, received)
        return known if received == known.received else _Unwanted(known.since, now, received)

    def _end(self, unwanted: _Unwanted) -> float:
        most = unwanted.since + max(self._seconds, MOST_GRACE_SECONDS)
        return min(unwanted.quiet_since + self._seconds, most)

    def next_at(self, now: float) -> float | None:
        """When the next grace period may end; None when none runs. One that is over does not come again."""
        moments = map(self._end, self._unwanted.values())
        return min((moment for moment in moments if moment > now), default=None)


class Tunnels(SingleKind[str, Tunnel]):
    """By name."""

    kind = Kind.TUNNEL

    def __init__(self, kernel: Kernel, log: Any, grace_seconds: float) -> None:
        super().__init__(kernel, log)
        self._grace = TunnelGracePeriod(grace_seconds)
        self._failing: set[str] = set()
        """Desired, and refused by the kernel."""

    def feature(self, value: Tunnel) -> str:
        """The device."""
        return value.name

    async def read(self, desired: DesiredState) -> Mapping[str, Tunnel]:
        """The devices with our names."""
        return await self._kernel.tunnels()

    async def diff(self, given: Comparison) -> Delta[str, Tunnel]:
        """Devices to make, adjust and remove."""
        desired = given.desired.dataplane.tunnels
        self._failing &= desired.keys()
        actual = {
            name: tunnel
            for name, tunnel in given.actual.of(self.kind).items()
            if name in desired or _is_in_force(tunnel)
        }
        delta = difference(desired, actual, complete=given.desired.complete)
        # Before BGP has converged nobody knows that packets have another way.
        return delta if given.desired.bgp_complete else Delta(delta.create, delta.replace, {})

    async def put_one(self, value: Tunnel, was: Tunnel | None) -> None:
        """Make or adjust a device."""
        if was is not None:
            reasons = value.immutable_differences(was)
            if reasons:
                self._log.warning("tunnel.recreated", device=value.name, why="; ".join(reasons))
            else:
                self._log.info("tunnel.adjusted", device=value.name, was=str(was), now=str(value))
        self._failing.add(value.name)
        await self._kernel.put_tunnel(value)
        self._failing.discard(value.name)

    async def may_go(self, unwanted: Mapping[str, Tunnel], now: float) -> Mapping[str, Tunnel]:
        """Those whose grace period is over; none while one that is desired instead cannot be made."""
        if self._failing:
            self._grace.over({}, now)
            return {}
        received = {name: await self._kernel.received(name) for name in unwanted}
        return {name: unwanted[name] for name in self._grace.over(received, now)}

    def next_at(self, now: float) -> float | None:
        """When the next grace period may end."""
        return self._grace.next_at(now)

    async def remove_one(self, value: Tunnel) -> None:
        """Delete a VXLAN device; strip and down tunl0."""
        await self._kernel.remove_tunnel(value.name)
        self._log.info("tunnel.removed", device=value.name)

    def is_drift(self, before: Tunnel | None, found: Tunnel | None) -> bool:
        """Any change of a known device; one that was not known, unless it is tunl0 as we took it down."""
        return before is not None or (found is not None and _is_in_force(found))

    def text(self, value: Tunnel) -> str:
        """As `ip -details link` says it."""
        words = [value.name, value.kind.value, f"mtu {value.mtu}"]
        words += [f"address {value.address}"] if value.address else []
        if value.vni:
            words.append(f"id {value.vni} port {value.port} dev {value.parent} local {value.local}")
        return " ".join(words if value.up else [*words, "down"])


def _is_in_force(tunnel: Tunnel) -> bool:
    """Whether there is anything to remove of a tunnel: tunl0 is never deleted, but goes down and bears nothing."""
    return tunnel.vni is not None or tunnel.address is not None or bool(tunnel.strays) or tunnel.up
