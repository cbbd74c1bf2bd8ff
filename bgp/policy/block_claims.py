"""Whose a block is by the datastore's word, as far as that contradicts a peer which announces it.

Promises: pure; asking costs a look-up. A block that nobody claims, or whose owner has no known address, is anybody's.
So is a single address inside a block, for it may be borrowed, unless it is known who borrowed what.
Does not know: the datastore, which peers are asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

from bgp.wire.families import Address
from bgp.wire.nlri import Nlri, truncated

Owner = tuple[str, frozenset[Address]]
"""The name of a node, and the addresses from which it announces."""
Touched = Callable[[Nlri], bool]
"""Whether a prefix may be decided otherwise than before."""


@dataclass(frozen=True, slots=True)
class BlockClaims:
    """The claims on blocks of one family."""

    owners: Mapping[Nlri, Owner] = field(default_factory=dict)
    borrowers: Mapping[Nlri, Owner] | None = None
    """Single address in a block of another node -> who borrowed it; None: that is not known."""
    lengths: tuple[int, ...] = ()
    """Of the blocks, each once."""

    @classmethod
    def of(cls, owners: Mapping[Nlri, Owner], borrowers: Mapping[Nlri, Owner] | None = None) -> BlockClaims:
        """With these owners."""
        return cls(owners, borrowers, tuple(sorted({block[0] for block in owners})))

    def refusal(self, prefix: Nlri, announcer: Address, longest: int) -> str:
        """Why a prefix is not the announcer's; empty: it may be. `longest` is the length of a single address."""
        owner = self.owners.get(prefix)
        if owner is not None:
            return "" if announcer in owner[1] else f"is the block of {owner[0]}, by its claim"
        if prefix[0] == longest and self.borrowers is None:
            return ""
        block = self._around(prefix)
        if block is None or announcer in block[1]:
            return ""
        borrower = self.borrowers.get(prefix) if self.borrowers is not None else None
        if borrower is not None and announcer in borrower[1]:
            return ""
        what = "is not borrowed from" if prefix[0] == longest else "is a part of"
        return f"{what} the block of {block[0]}, by its claim"

    def _around(self, prefix: Nlri) -> Owner | None:
        for length in self.lengths:
            if length < prefix[0] and (owner := self.owners.get(truncated(prefix, length))) is not None:
                return owner
        return None

    def changed(self, before: BlockClaims) -> Touched | None:
        """Which prefixes may be decided otherwise than before; None: none is."""
        if self.borrowers != before.borrowers and (self.borrowers is None or before.borrowers is None):
            return lambda prefix: True
        blocks = _differing(self.owners, before.owners)
        hosts = _differing(self.borrowers or {}, before.borrowers or {})
        if not blocks and not hosts:
            return None
        lengths = sorted({block[0] for block in blocks})
        return lambda prefix: (
            prefix in blocks
            or prefix in hosts
            or any(length < prefix[0] and truncated(prefix, length) in blocks for length in lengths)
        )


def _differing(one: Mapping[Nlri, Owner], other: Mapping[Nlri, Owner]) -> Set[Nlri]:
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


NO_CLAIMS = BlockClaims()
