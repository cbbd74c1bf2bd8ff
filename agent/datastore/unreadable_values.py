"""The stored values that cannot be used now: each is a trouble.

Promises: bounded, whatever is stored: of more than MOST_KEPT only the number is known, of more than MOST_NAMED only
that is shown. Does not know: how a value is read, what holds instead of it.
"""

from __future__ import annotations

from collections.abc import Iterator, KeysView

from agent.trouble import Trouble, TroubleKind
from ipam.failures import Unreadable

MOST_KEPT = 1000
"""Values of which the reason is remembered."""
MOST_NAMED = 100
"""Values that have a trouble of their own."""
CURE = "write it anew, or delete it"


class UnreadableValues:
    """By etcd key; written by whoever reads values of some kinds."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Unreadable, str, str] | None] = {}
        """etcd key -> why it cannot be used, what holds instead, what to do; None: one too many to remember that."""

    def note(self, key: str, error: Unreadable, loss: str, cure: str = CURE) -> bool:
        """A value cannot be used, and `loss` says what holds instead. Whether that is news."""
        before = self._found.get(key)
        is_new = key not in self._found
        if is_new and len(self._found) >= MOST_KEPT:
            self._found[key] = None
            return True
        self._found[key] = error, loss, cure
        return before is None or (before[0].why, before[1]) != (error.why, loss)

    def clear(self, key: str) -> bool:
        """A value can be used again, or is gone. Whether it could not."""
        if key not in self._found:
            return False
        del self._found[key]
        return True

    def __contains__(self, key: object) -> bool:
        return key in self._found

    def __len__(self) -> int:
        return len(self._found)

    def keys(self) -> KeysView[str]:
        """The etcd keys."""
        return self._found.keys()

    def why(self, key: str) -> str:
        """Why a value cannot be used; empty if it can."""
        known = self._found.get(key)
        return known[0].why if known is not None else ""

    def troubles(self) -> Iterator[Trouble]:
        """A trouble for each of the first MOST_NAMED, and one for all the others."""
        named = 0
        for known in self._found.values():
            if known is not None and named < MOST_NAMED:
                error, loss, cure = known
                named += 1
                evidence = f"revision {error.revision} cannot be read: {error.why}"
                yield Trouble(TroubleKind.UNREADABLE, error.key, evidence, loss, cure)
        if (more := len(self._found) - named) > 0:
            yield Trouble(TroubleKind.UNREADABLE, "", f"{more} more stored values cannot be read", cure=CURE)
