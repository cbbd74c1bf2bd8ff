"""Releases that could not be carried out at once: written down durably, carried out later, in order.

Promises: a release that was recorded survives a crash and a power loss (fsync); it is taken off only after it was
carried out; the shim writes the same form when the agent is down. Bounded: a full journal refuses, it never forgets.
Does not know: etcd, what a release does.

One file per release, named `<time>-<container id>-<interface>.json`, in `<state>/releases`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MOST_RELEASES = 10_000
TEMPORARY = ".new"


class JournalFull(Exception):
    """There are too many releases to carry out; the sentence names the directory."""


@dataclass(frozen=True, slots=True)
class Release:
    """A DEL, as the runtime sent it: enough to carry it out without its namespace."""

    environment: dict[str, str]
    config: str


class Journal:
    """The directory of releases."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "releases"

    def record(self, release: Release, stamp: int) -> Path:
        """Write a release down; `stamp` (nanoseconds) orders them. Raises JournalFull, OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(os.listdir(self._directory)) >= MOST_RELEASES:
            raise JournalFull(
                f"{self._directory} holds {MOST_RELEASES} releases; is the datastore away for good?"
            )
        environment = release.environment
        name = f"{stamp}-{environment['CNI_CONTAINERID']}-{environment['CNI_IFNAME']}.json"
        path = self._directory / name
        temporary = path.with_name(name + TEMPORARY)
        with open(temporary, "w") as file:
            json.dump({"environment": environment, "config": release.config}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._sync_directory()
        return path

    def pending(self, unreadable: Callable[[Path, str], None]) -> list[tuple[Path, Release]]:
        """What is still to be carried out, oldest first; a damaged file is reported, never removed."""
        found = []
        with suppress(FileNotFoundError):
            for path in sorted(self._directory.glob("*.json")):
                try:
                    raw = json.loads(path.read_text())
                    found.append((path, Release(dict(raw["environment"]), str(raw["config"]))))
                except (OSError, ValueError, KeyError, TypeError) as error:
                    unreadable(path, str(error))
        return found

    def done(self, path: Path) -> None:
        """A release was carried out."""
        path.unlink(missing_ok=True)
        self._sync_directory()

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
