"""Neighbours and forwarding entries of our VXLAN devices: the addresses and MACs of other nodes' tunnel ends.

Promises: every permanent entry on a device of ours is ours; without the device, or while it is down, none is put. On a
device that is not desired any more they stay while one that is desired instead is not there: packets need them.
Nothing is compared as long as neither side nor the devices have changed: there may be thousands of entries, and most
passes are for something else. Does not know: how an entry is encoded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeVar

from agent.dataplane.kernel.calico_names import VXLAN_DEVICES
from agent.dataplane.kernel.dataplane_objects import Dataplane, Kind
from agent.dataplane.kernel.protocol import Refusal
from agent.dataplane.kinds.object_kind import Delta, ObjectKind, difference
from agent.dataplane.kinds.states import Comparison, DesiredState
from agent.netlink.objects import Address, FdbEntry, Neighbour

K = TypeVar("K")
E = TypeVar("E", Neighbour, FdbEntry)


class _VxlanEntries(ObjectKind[K, E]):
    _compared: tuple[object, ...] = ()
    """What was compared when there was nothing to do; empty when there was something."""

    @abstractmethod
    def _desired(self, dataplane: Dataplane) -> Mapping[K, E]: ...

    async def diff(self, given: Comparison) -> Delta[K, E]:
        """Entries to make, replace and remove."""
        desired, actual = self._desired(given.desired.dataplane), given.actual.of(self.kind)
        wanted_devices = given.desired.dataplane.tunnels
        is_settled = all(given.is_usable(name) for name in wanted_devices)
        devices: list[object] = [given.links.get(name) for name in VXLAN_DEVICES]
        devices += [name in wanted_devices for name in VXLAN_DEVICES]
        compared: tuple[object, ...] = (desired, actual, is_settled, *devices)
        if self._compared and all(one is other for one, other in zip(compared, self._compared, strict=True)):
            return Delta({}, {}, {})
        usable = {name for name in VXLAN_DEVICES if given.is_usable(name)}
        wanted = {key: entry for key, entry in desired.items() if entry.device in usable}
        if not is_settled:
            actual = {key: entry for key, entry in actual.items() if entry.device in wanted_devices}
        delta = difference(wanted, actual, complete=given.desired.complete)
        self._compared = () if delta or not given.desired.complete else compared
        return delta

    async def put(self, values: Sequence[E]) -> tuple[Refusal, ...]:
        """Create or replace."""
        return await self._kernel.put_entries(values)

    async def remove(self, values: Sequence[E]) -> tuple[Refusal, ...]:
        """Delete."""
        return await self._kernel.remove_entries(values)


class Neighbours(_VxlanEntries[tuple[str, Address], Neighbour]):
    """Permanent ARP and neighbour discovery entries, by device and address."""

    kind = Kind.NEIGHBOUR

    def _desired(self, dataplane: Dataplane) -> Mapping[tuple[str, Address], Neighbour]:
        return dataplane.neighbours

    async def read(self, desired: DesiredState) -> Mapping[tuple[str, Address], Neighbour]:
        """Those of our VXLAN devices."""
        tables = [await self._kernel.neighbours(device) for device in VXLAN_DEVICES]
        return {(entry.device, entry.address): entry for table in tables for entry in table.values()}

    def text(self, value: Neighbour) -> str:
        """As `ip neighbour` says it."""
        return f"{value.address} dev {value.device} lladdr {value.mac}"


class ForwardingEntries(_VxlanEntries[tuple[str, str], FdbEntry]):
    """Permanent forwarding entries with a destination, by device and MAC."""

    kind = Kind.FDB

    def _desired(self, dataplane: Dataplane) -> Mapping[tuple[str, str], FdbEntry]:
        return dataplane.fdb

    async def read(self, desired: DesiredState) -> Mapping[tuple[str, str], FdbEntry]:
        """Those of our VXLAN devices."""
        tables = [await self._kernel.fdb(device) for device in VXLAN_DEVICES]
        return {(entry.device, entry.mac): entry for table in tables for entry in table.values()}

    def text(self, value: FdbEntry) -> str:
        """As `bridge fdb` says it."""
        return f"{value.mac} dev {value.device} dst {value.remote}"
