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
        self.talkers: set[Address] = set()
        """For whom something may wait to be written; the reader drops those for whom nothing does."""

    def note(self, address: Address, deadline: float | None, *, is_waiting: bool) -> None:
        """Something happened to a neighbour."""
        self._noted.add(address)
        if deadline is None:
            self._deadlines.pop(address, None)
        else:
            self._deadlines[address] = deadline
        if is_waiting:
            self.talkers.add(address)

    def forget(self, address: Address) -> None:
        """It is no neighbour any more."""
        self._noted.add(address)
        self._deadlines.pop(address, None)
        self.talkers.discard(address)

    @property
    def deadline(self) -> float | None:
        """The earliest."""
        return min(self._deadlines.values(), default=None)

    def due(self, now: float) -> list[Address]:
        """Whose time has come."""
        return [address for address, at in self._deadlines.items() if at <= now]

    def take_noted(self) -> set[Address]:
        """To whom something happened since the last call."""
        noted, self._noted = self._noted, set()
        return noted
