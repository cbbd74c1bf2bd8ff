"""Releases that could not be carried out at once: written down durably, carried out later, in order.

Promises: a release that was recorded survives a crash and a power loss (fsync); it is taken off only after it was
carried out; the shim writes the same form when the agent is down. Bounded: a full journal refuses, it never forgets.
Does not know: etcd, what a release does.

One file per release, named `<time>-<container id>-<interface>.json`, in `<state>/releases`; one that can never be
carried out ends in `.refused`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.durable_files import TEMPORARY, put_file, sync_directory

MOST_RELEASES = 10_000
REFUSED = ".refused"
STALE_SECONDS = 3600.0
"""No writer needs so long; a younger half may still be written."""


class JournalFull(Exception):
    """The journal holds as many releases as it takes; the sentence names its directory."""


@dataclass(frozen=True, slots=True)
class Release:
    """A DEL, as the runtime sent it: enough to carry it out without its namespace."""

    environment: dict[str, str]
    config: str


class ReleaseJournal:
    """The directory of the releases that are still to be carried out, a file each."""

    def __init__(self, state: Path, most: int = MOST_RELEASES) -> None:
        self._directory = state / "releases"
        self._most = most

    def record(self, release: Release, stamp: int) -> Path:
        """Write a release down; `stamp` (nanoseconds) orders them. Raises JournalFull, OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(os.listdir(self._directory)) >= self._most:
            raise JournalFull(
                f"{self._directory} holds {self._most} releases; is the datastore away for good?"
            )
        environment = release.environment
        name = f"{stamp}-{environment['CNI_CONTAINERID']}-{environment['CNI_IFNAME']}.json"
        path = self._directory / name
        put_file(path, msgspec.json.encode(release), 0o600)
        return path

    def pending(self, unreadable: Callable[[Path, str], None]) -> list[tuple[Path, Release]]:
        """What is still to be carried out, oldest first; a damaged file is reported, never removed."""
        found = []
        with suppress(FileNotFoundError):
            for path in sorted(self._directory.glob("*.json")):
                try:
                    found.append((path, msgspec.json.decode(path.read_bytes(), type=Release)))
                except (OSError, msgspec.MsgspecError) as error:
                    unreadable(path, str(error))
        return found

    def pending_of(self, container_id: str, interface: str) -> list[Path]:
        """The releases of one attachment that are still to be carried out; a look at names, so cheap."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        # A stamp is digits only, so an id that ends like another one is not taken for it.
        wanted = re.compile(rf"[0-9]+-{re.escape(container_id)}-{re.escape(interface)}\.json")
        return sorted(self._directory / name for name in names if wanted.fullmatch(name))

    def set_aside(self, path: Path) -> None:
        """A release that can never be carried out: left for the operator, where it does not delay the others."""
        path.replace(path.with_suffix(REFUSED))
        sync_directory(self._directory)

    def sweep(self, now: float) -> None:
        """Remove what a killed writer left half written: its DEL was never answered, so its runtime asks again.

        `now` is in seconds since 1970. Raises OSError.
        """
        for path in self._directory.glob(f"*{TEMPORARY}"):
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def done(self, path: Path) -> None:
        """Take a release off that was carried out, durably; one that is gone already is success. Raises OSError."""
        path.unlink(missing_ok=True)
        sync_directory(self._directory)
