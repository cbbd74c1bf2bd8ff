"""What can go wrong in address management, sorted by what the caller must do.

Three families: *retry* (Conflict), *refuse* (the caller must tell its user), *unavailable* (etcd is away: fail static).
"""

from __future__ import annotations


class IpamError(Exception):
    """Base of everything this package raises on purpose."""


class StoreError(IpamError):
    """The datastore did not do what was asked."""


class StoreUnavailable(StoreError):
    """No answer from any endpoint within the deadline: a write may have happened, so read before repeating it."""


class TakesNoWrites(StoreUnavailable):
    """The datastore answers and reads, and carries out no write: its space is used up (NOSPACE), or it is damaged."""


class StoreRefused(StoreError):
    """The datastore answered and said no: wrong password, no permission, a request it does not take."""


class DatastoreLocked(StoreRefused):
    """Somebody has locked the datastore: nothing was written, and nothing is until it is unlocked."""


class AnswerTooLarge(StoreError):
    """An answer has more octets than are taken at once: ask for less."""


class Compacted(StoreError):
    """The revision asked for was compacted away: list again."""


class WentBack(Compacted):
    """The datastore is older than what was read from it, or another one: a backup was restored. List again."""


class Conflict(IpamError):
    """Another writer came first, more often than the bound allows."""


class Refused(IpamError):
    """The request cannot be met; the text says which pools and blocks were looked at and why each failed."""


class NoPool(Refused):
    """No pool is configured, enabled and selects this node."""


class PoolExhausted(Refused):
    """Pools were found, but none has a free address this node may take."""


class BlockLimit(Refused):
    """The node holds as many blocks as it may."""


class AddressInUse(Refused):
    """The address asked for is allocated already."""


class Malformed(IpamError):
    """A value is not as it must be: a stored one (Unreadable), or one that was to be written."""


class Unreadable(Malformed):
    """A stored value that cannot be used: its key as text, the revision of its last write, and why in a sentence."""

    def __init__(self, key: str, revision: int, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key
        self.revision = revision
        self.why = why
