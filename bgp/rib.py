"""Routing information bases: what one peer said, and the best of what all said (RFC 4271 sections 3.2 and 9.1).

Promises: every change answers which prefixes now have another best path. NLRI stay wire bytes, and all prefixes of one
UPDATE share one path, so a million of them fit. Does not know: sessions, time, what becomes of a best path.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, KeysView

from bgp.decision import Path, best_path
from bgp.nlri import Nlri


class AdjRibIn:
    """What one peer announced and did not withdraw."""

    def __init__(self) -> None:
        self._paths: dict[Nlri, Path] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def put(self, prefixes: Iterable[Nlri], path: Path) -> None:
        """The peer announced these."""
        self._paths.update(dict.fromkeys(prefixes, path))

    def drop(self, prefixes: Iterable[Nlri]) -> list[Nlri]:
        """The peer withdrew these; answers those that it had announced."""
        return [prefix for prefix in prefixes if self._paths.pop(prefix, None) is not None]

    def get(self, prefix: Nlri) -> Path | None:
        """The path that the peer announced."""
        return self._paths.get(prefix)

    def items(self) -> ItemsView[Nlri, Path]:
        """All of them with their paths."""
        return self._paths.items()

    @property
    def prefixes(self) -> KeysView[Nlri]:
        """All of them."""
        return self._paths.keys()


class LocRib:
    """Every known path of every prefix, the best one first."""

    def __init__(self) -> None:
        self._paths: dict[Nlri, tuple[Path, ...]] = {}

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def prefixes(self) -> KeysView[Nlri]:
        """All prefixes that have a path."""
        return self._paths.keys()

    def best(self, prefix: Nlri) -> Path | None:
        """The chosen path."""
        paths = self._paths.get(prefix)
        return paths[0] if paths is not None else None

    def candidates(self, prefix: Nlri) -> tuple[Path, ...]:
        """All paths, the best one first."""
        return self._paths.get(prefix, ())

    def put(self, prefixes: Iterable[Nlri], path: Path) -> set[Nlri]:
        """A source announces with these attributes; answers the prefixes whose best path changed."""
        changed = set()
        alone, key, path_id = (path,), path.source.key, path.source.path_id
        known = self._paths
        for prefix in prefixes:
            before = known.get(prefix)
            if before is None:
                known[prefix] = alone
                changed.add(prefix)
                continue
            others = [one for one in before if one.source.key != key or one.source.path_id != path_id]
            after = _chosen([*others, path]) if others else alone
            known[prefix] = after
            if after[0] != before[0]:
                changed.add(prefix)
        return changed

    def drop(self, prefixes: Iterable[Nlri], source: int, path_id: int | None = None) -> set[Nlri]:
        """A source (its key) takes back a path; answers the prefixes whose best path changed."""
        changed = set()
        for prefix in prefixes:
            before = self._paths.get(prefix, ())
            others = [one for one in before if one.source.key != source or one.source.path_id != path_id]
            if len(others) == len(before):
                continue
            if not others:
                del self._paths[prefix]
                changed.add(prefix)
                continue
            after = self._paths[prefix] = _chosen(others)
            if after[0] is not before[0]:
                changed.add(prefix)
        return changed


def _chosen(paths: list[Path]) -> tuple[Path, ...]:
    best = best_path(paths)
    return (best, *(path for path in paths if path is not best))
