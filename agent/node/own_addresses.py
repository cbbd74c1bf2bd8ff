"""The node's addresses by version of IP: the recorded one while an interface bears it, else one that is detected.

Promises: an address that must change is told of before, in the log and as a trouble, for an interface may be bare for
a moment only; and after. A version of IP without an address takes nothing from the other one.
Does not know: the Node resource, other nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import structlog

from agent.clock import Clock
from agent.node.address_candidates import InterfaceAddress
from agent.node.autodetection import NONE, Autodetection, DetectedAddress, NoAddress
from agent.trouble import Trouble, TroubleKind

VERSIONS = (4, 6)
CHANGE_SECONDS = 4.0
"""So long the recorded address is on no interface before another one takes its place: DHCP clients and network managers
take an address away and put it back. So long an IPv4 address is waited for, too, before a node is one of IPv6 alone."""
NOTICE_SECONDS = 300.0
"""So long a change is a trouble afterwards: others have the old address in their settings."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AddressChange:
    """A recorded address and the one in its place."""

    before: InterfaceAddress
    after: InterfaceAddress
    how: str
    """How the new one was found."""
    at: float
    """When it was expected, or, once it has happened, when it did: seconds on a monotonic clock."""


class OwnAddresses:
    """Decides what the record is to say of the node's addresses; a shell that remembers changes."""

    def __init__(self, autodetection: Autodetection, clock: Clock) -> None:
        self._autodetection = autodetection
        self._clock = clock
        self.detected: dict[int, DetectedAddress | NoAddress] = {}
        """By version of IP: the address and how it was found, or why there is none."""
        self._coming: dict[int, AddressChange] = {}
        self._made: dict[int, AddressChange] = {}
        self._without_ipv4_since: float | None = None

    @property
    def is_changing(self) -> bool:
        """Whether a change is expected: one more look soon."""
        return bool(self._coming)

    async def choose(self, recorded: Mapping[int, InterfaceAddress | None]) -> dict[int, InterfaceAddress]:
        """The addresses that the record should say; of a version that is left out it stays as it is.

        Raises NoAddress when the node has none.
        """
        for version in VERSIONS:
            if not self._is_wanted(version, recorded):
                self.detected.pop(version, None)
                continue
            try:
                self.detected[version] = await self._autodetection.detect(version, recorded.get(version))
            except NoAddress as error:
                self.detected[version] = error
        found = {version: one for version, one in self.detected.items() if isinstance(one, DetectedAddress)}
        if not found:
            raise next(one for one in self.detected.values() if isinstance(one, NoAddress))
        for version in self._coming.keys() - found.keys():
            del self._coming[version]
        settled = {
            version: self._settled(version, one, recorded.get(version)) for version, one in found.items()
        }
        return {version: address for version, address in settled.items() if address is not None}

    def _is_wanted(self, version: int, recorded: Mapping[int, InterfaceAddress | None]) -> bool:
        if version == 4 or self._autodetection.is_wanted(version):
            return self._autodetection.is_wanted(version)
        if not isinstance(self.detected.get(4), NoAddress):
            self._without_ipv4_since = None
            return False
        now = self._clock.now()
        if self._without_ipv4_since is None:
            self._without_ipv4_since = now
        waited = now - self._without_ipv4_since >= CHANGE_SECONDS or not self._autodetection.has_pool(4)
        # A node of IPv4 that is bare for a moment does not become one of IPv6.
        return waited and recorded.get(4) is None and self._autodetection.given(6) != NONE

    def _settled(
        self, version: int, found: DetectedAddress, recorded: InterfaceAddress | None
    ) -> InterfaceAddress | None:
        """The address, once it is to be recorded; None: not yet."""
        coming = self._coming.get(version)
        if recorded is None or recorded.ip == found.address.ip:
            if coming is not None:
                del self._coming[version]
                self._end(version, coming, recorded)
            return found.address
        now = self._clock.now()
        if coming is None or (coming.before, coming.after) != (recorded, found.address):
            since = coming.at if coming is not None and coming.before == recorded else now
            self._coming[version] = coming = AddressChange(recorded, found.address, found.how, since)
            log.warning(
                "node.address_changes",
                now=str(recorded),
                then=str(found.address),
                why=self._why(version, coming),
                found_by=found.how,
            )
        is_due = bool(self._autodetection.given(version)) or now - coming.at >= CHANGE_SECONDS
        return found.address if is_due else None

    def _end(self, version: int, coming: AddressChange, recorded: InterfaceAddress | None) -> None:
        if recorded is None or recorded.ip != coming.after.ip:
            log.info("node.address_stays", address=str(coming.before))
            return
        self._made[version] = AddressChange(coming.before, recorded, coming.how, self._clock.now())
        log.warning("node.address_changed", before=str(coming.before), now=str(recorded), found_by=coming.how)

    def _why(self, version: int, change: AddressChange) -> str:
        found = self.detected.get(version)
        candidates = found.candidates if found is not None else ()
        if any(one.address.ip == change.before.ip for one in candidates):
            return "the settings choose another address"
        return "no interface bears it any more"

    def troubles(self) -> Iterator[Trouble]:
        """What of the addresses is missing, about to change, or has changed lately."""
        kind = TroubleKind.UNDERLAY
        has_other = any(isinstance(found, DetectedAddress) for found in self.detected.values())
        for version, found in self.detected.items():
            if isinstance(found, NoAddress) and has_other and self._is_missed(version):
                other = 4 if version == 6 else 6
                loss = f"IPv{other} goes on; other nodes do not reach this node's pods by IPv{version}"
                key = "node.address6" if version == 6 else "node.address"
                yield Trouble(kind, f"IPv{version}", str(found), loss, f"where none is to be: {key} = none")
        for version, change in self._coming.items():
            yield Trouble(
                kind,
                f"the node's address {change.before.ip}",
                self._why(version, change),
                f"within seconds {change.after} ({change.how}) takes its place; sessions and tunnels begin anew",
                "put it back on its interface, or let it",
            )
        for change in self._made.values():
            if self._clock.now() - change.at < NOTICE_SECONDS:
                yield Trouble(
                    kind,
                    f"the node's address {change.after.ip}",
                    f"it was {change.before.ip} before",
                    "whoever has the old one in BGPPeers, firewalls and routers does not reach this node",
                    "change it there; this is said for five minutes",
                )

    def _is_missed(self, version: int) -> bool:
        return version == 6 or self._autodetection.has_pool(4)
