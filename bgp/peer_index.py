"""Which neighbours need a look: because their time has come, something waits for them, or something happened to them.

Promises: pure; what it costs per input does not grow with the number of neighbours but for one pass over plain numbers.
Does not know: what a neighbour is.
"""

from __future__ import annotations

from bgp.wire.families import Address


class PeerIndex:
    """Of all neighbours, by address."""

    def __init__(self) -> None:
        self._deadlines: dict[Address, float] = {}
        self._noted: set[Address] = set()
        self.writable: set[Address] = set()
        """For whom something may wait to be written; the reader drops those for whom nothing does."""

    def update(self, address: Address, deadline: float | None, *, is_waiting: bool) -> None:
        """Something happened to a neighbour."""
        self._noted.add(address)
        if deadline is None:
            self._deadlines.pop(address, None)
        else:
            self._deadlines[address] = deadline
        if is_waiting:
            self.writable.add(address)

    def remove(self, address: Address) -> None:
        """It is no neighbour any more."""
        self._noted.add(address)
        self._deadlines.pop(address, None)
        self.writable.discard(address)

    @property
    def deadline(self) -> float | None:
        """The earliest."""
        return min(self._deadlines.values(), default=None)

    def due(self, now: float) -> list[Address]:
        """Whose time has come."""
        return [address for address, at in self._deadlines.items() if at <= now]

    def take_changed(self) -> set[Address]:
        """To whom something happened since the last call."""
        noted, self._noted = self._noted, set()
        return noted
