"""What a removal overwrote and deleted, so that it can be undone: a Store that notes it, and the way back.

Promises: every key that is written through `NotingStore` is noted with its value before the first write and its
revision after the last one; guards given to it go with every transaction. What is put back is guarded key by key: what
somebody else has written since is never overwritten, and then nothing is put back at all. A dry run notes as well.
Does not know: what is removed, files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipam.etcd.store import (
    CommitOutcome,
    Committed,
    Guard,
    GuardFailed,
    KeyCount,
    Listing,
    Operation,
    Put,
    Store,
    Unchanged,
    Versioned,
    WatchEvent,
    revision_of,
)
from ipam.failures import Conflict, Malformed

PUT_BACK_AT_ONCE = 50
MOST_KEYS = 100_000
MOST_UNDO_BYTES = 256 << 20
FORMAT = "tortie-undo-1"


@dataclass(frozen=True, slots=True)
class Noted:
    """One key."""

    key: str
    before: bytes | None
    """Its value; None: there was none."""
    after: int
    """Its revision after the removal; 0: it is gone."""


class NotingStore:
    """A store in front of another, for the length of one removal."""

    def __init__(self, store: Store, guards: Sequence[Unchanged] = ()) -> None:
        """`guards` go with every transaction; one that fails raises Conflict."""
        self._store = store
        self._guards = tuple(guards)
        self.noted: dict[str, Noted] = {}

    async def commit(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        """See Store. Raises Conflict when a guard of the removal itself fails."""
        keys = [one.key for one in operations]
        before = await self._store.get_many([key for key in keys if key not in self.noted])
        outcome = await self._store.commit((*guards, *self._guards), operations)
        if isinstance(outcome, GuardFailed):
            for own in self._guards:
                if own.key in outcome.present and revision_of(outcome.present[own.key]) != own.revision:
                    raise Conflict(f"{own.key} was written meanwhile: the removal ends here")
            return outcome
        for one in operations:
            known = self.noted.get(one.key)
            old = known.before if known is not None else _value(before.get(one.key))
            after = outcome.revision if isinstance(one, Put) else 0
            self.noted[one.key] = Noted(one.key, old, after)
        return outcome

    async def get(self, key: str) -> Versioned | None:
        """See Store."""
        return await self._store.get(key)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Versioned]:
        """See Store."""
        return await self._store.get_many(keys)

    async def list(self, prefix: str) -> Listing:
        """See Store."""
        return await self._store.list(prefix)

    async def count(self, prefix: str) -> KeyCount:
        """See Store."""
        return await self._store.count(prefix)

    def watch(self, prefix: str, start: int) -> AsyncIterator[WatchEvent]:
        """See Store."""
        return self._store.watch(prefix, start)

    def watch_keys(self, keys: Sequence[str], start: int) -> AsyncIterator[WatchEvent]:
        """See Store."""
        return self._store.watch_keys(keys, start)

    async def grant_lease(self, ttl_seconds: int) -> int:
        """See Store."""
        return await self._store.grant_lease(ttl_seconds)

    async def keep_alive(self, lease: int) -> bool:
        """See Store."""
        return await self._store.keep_alive(lease)

    async def revoke_lease(self, lease: int) -> None:
        """See Store."""
        await self._store.revoke_lease(lease)

    async def close(self) -> None:
        """The store behind stays open: it is its owner's."""


def _value(stored: Versioned | None) -> bytes | None:
    return stored.value if stored is not None else None


def written(noted: Mapping[str, Noted], about: str) -> bytes:
    """An undo file."""
    keys = [
        {
            "key": one.key,
            "before": None if one.before is None else base64.b64encode(one.before).decode(),
            "after": one.after,
        }
        for one in noted.values()
    ]
    return json.dumps({"format": FORMAT, "about": about, "keys": keys}, indent=1).encode() + b"\n"


def read(content: bytes) -> tuple[Noted, ...]:
    """What an undo file holds. Raises Malformed."""
    try:
        raw = json.loads(content)
        if raw["format"] != FORMAT or len(raw["keys"]) > MOST_KEYS:
            raise ValueError(raw["format"])
        return tuple(_noted(one) for one in raw["keys"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Malformed(f"this is no undo file of {FORMAT}") from error


def _noted(raw: Mapping[str, Any]) -> Noted:
    key, before, after = raw["key"], raw["before"], raw["after"]
    if not isinstance(key, str) or not key.startswith("/calico/") or not isinstance(after, int):
        raise ValueError(key)
    return Noted(key, None if before is None else base64.b64decode(before, validate=True), after)


async def put_back(store: Store, noted: Sequence[Noted]) -> int:
    """Undo it; how many keys were put back.

    Raises Conflict with nothing done if somebody wrote one since, StoreError.
    """
    present = {
        key: stored
        for start in range(0, len(noted), PUT_BACK_AT_ONCE)
        for key, stored in (
            await store.get_many([one.key for one in noted[start : start + PUT_BACK_AT_ONCE]])
        ).items()
    }
    wanted = [one for one in noted if one.before is not None and _value(present.get(one.key)) != one.before]
    changed = [one.key for one in wanted if revision_of(present.get(one.key)) != one.after]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise Conflict(f"{changed[0]}{more} was written since: nothing is put back")
    for start in range(0, len(wanted), PUT_BACK_AT_ONCE):
        some = wanted[start : start + PUT_BACK_AT_ONCE]
        guards = [Unchanged(one.key, one.after) for one in some]
        puts = [Put(one.key, one.before) for one in some if one.before is not None]
        if not isinstance(await store.commit(guards, puts), Committed):
            raise Conflict(f"{start} of {len(wanted)} keys are put back; the next were written meanwhile")
    return len(wanted)
