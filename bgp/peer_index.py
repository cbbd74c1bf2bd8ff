"""What an instance keeps in mind of all its peers, so that an input costs no look at each of them.

Promises: pure; as right as the last `update` of each peer. Does not know: what a deadline is for, sessions, paths.
"""

from __future__ import annotations

from bgp.wire.families import Address


class PeerIndex:
    """Which peers need a look, so that an input costs no more with many peers than one pass over plain numbers."""

    def __init__(self) -> None:
        self._deadlines: dict[Address, float] = {}
        self._held: dict[Address, int] = {}
        self.held_octets = 0
        """Memory that the paths of all peers need, by estimate."""
        self.changed: set[Address] = set()
        """Peers to which something happened; the reader takes them away."""
        self.waiting: set[Address] = set()
        """Peers for which an UPDATE may wait to be written; the reader drops those for which none does."""

    def update(self, address: Address, deadline: float | None, *, is_waiting: bool, held_octets: int) -> None:
        """Something happened to a peer."""
        self.changed.add(address)
        self.held_octets += held_octets - self._held.get(address, 0)
        self._held[address] = held_octets
        if deadline is None:
            self._deadlines.pop(address, None)
        else:
            self._deadlines[address] = deadline
        if is_waiting:
            self.waiting.add(address)

    def remove(self, address: Address) -> None:
        """A peer is no longer configured."""
        self.changed.add(address)
        self._deadlines.pop(address, None)
        self.held_octets -= self._held.pop(address, 0)
        self.waiting.discard(address)

    @property
    def deadline(self) -> float | None:
        """The earliest deadline of all peers."""
        return min(self._deadlines.values(), default=None)

    def due(self, now: float) -> list[Address]:
        """Peers whose deadline has passed."""
        return [address for address, at in self._deadlines.items() if at <= now]
