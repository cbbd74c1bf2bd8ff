"""Releases that could not be carried out at once: written down durably, carried out later, in order.

Promises: a release that was recorded survives a crash and a power loss (fsync); it is taken off only after it was
carried out; the shim writes the same form when the agent is down. Bounded: a full journal refuses, it never forgets.
Whatever lies in its directory is no obstacle: what is no file is not opened, what is no release is put aside, and
however many there are, they are looked at in pieces.
Does not know: etcd, what a release does.

One file per release, named `<time>-<container id>-<interface>.json`, in `<state>/releases`; of an id that makes a name
too long, the beginning and a `~`. What can never be carried out lies in `refused` there, beside it its reason.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from agent.durable_files import TEMPORARY, put_file, sync_directory
from agent.foreign_files import Unfit, read_file

MOST_RELEASES = 10_000
MOST_RELEASE_BYTES = 8 << 20
"""What the shims can write: 1 MiB of configuration, each octet of it at most six characters of JSON."""
LONGEST_ID_IN_NAME = 150
"""With time, interface and the end of an unfinished file the name stays below NAME_MAX (255)."""
ENDING = ".json"
REFUSED, REASON = "refused", ".reason"
LONGEST_REASON = 2000
MOST_REFUSED_COUNTED = 1000
MOST_REFUSED_NAMED = 10
PIECE = 500
"""Names of the directory that are looked at before other tasks run: half a millisecond."""
MOST_AT_ONCE = 10_000
"""Names that are kept of one look."""
LEAST_FREE_BYTES = 64 << 10
"""With less a file system counts as full."""
STALE_SECONDS = 3600.0
"""No writer needs so long; a younger half may still be written."""


class JournalFull(Exception):
    """The journal holds as many releases as it takes; the sentence names its directory."""


class Unplayable(Exception):
    """A file that is no release and will not become one; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Release:
    """A DEL, as the runtime sent it: enough to carry it out without its namespace."""

    environment: dict[str, str]
    config: str


@dataclass(frozen=True, slots=True)
class Refused:
    """What was put aside: how many there are (`MOST_REFUSED_COUNTED` at most), and some with their reasons."""

    count: int = 0
    named: tuple[tuple[Path, str], ...] = ()


class ReleaseJournal:
    """The directory of the releases that are still to be carried out, a file each."""

    def __init__(self, state: Path, most: int = MOST_RELEASES) -> None:
        self._directory = state / "releases"
        self._most = most
        self._held: int | None = None
        """How many releases there are, by the last look and what was recorded since; None before the first."""

    @property
    def directory(self) -> Path:
        """Where the releases are."""
        return self._directory

    @property
    def is_full(self) -> bool:
        """Whether it takes no more releases."""
        return self._held is not None and self._held >= self._most

    def record(self, release: Release, stamp: int) -> Path:
        """Write a release down; `stamp` (nanoseconds) orders them. Raises JournalFull, OSError."""
        if self.is_full:
            raise JournalFull(
                f"{self._directory} holds {self._most} releases; is the datastore away for good?"
            )
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{stamp}-{_subject(release.environment)}{ENDING}"
        put_file(path, msgspec.json.encode(release), 0o600)
        self._held = (self._held or 0) + 1
        return path

    # -- looking ------------------------------------------------------------------------------------------------------

    async def names(self, after: str, now: float) -> list[str]:
        """The names of releases behind `after`, oldest first, `MOST_AT_ONCE` at most; `now` in seconds since 1970.

        Removes what a killed writer left half written: its DEL was never answered, so its runtime asks again.
        Raises OSError.
        """
        found: list[str] = []
        held = 0
        async for names in self._pieces():
            releases = [name for name in names if name.endswith(ENDING)]
            held += len(releases)
            found = sorted([*found, *(name for name in releases if name > after)])[:MOST_AT_ONCE]
            for name in names:
                if name.endswith(TEMPORARY):
                    self._sweep(self._directory / name, now)
        self._held = held
        return found

    async def pending_of(self, container_id: str, interface: str) -> list[Path]:
        """The releases of one attachment that are still to be carried out. Raises OSError."""
        # A stamp is digits only, so an id that ends like another one is not taken for it. Earlier shims cut no id.
        environment = {"CNI_CONTAINERID": container_id, "CNI_IFNAME": interface}
        subjects = {_subject(environment), _whole_subject(environment)}
        wanted = re.compile(rf"[0-9]+-(?:{'|'.join(map(re.escape, subjects))}){re.escape(ENDING)}")
        found = [name async for names in self._pieces() for name in names if wanted.fullmatch(name)]
        return [path for path in map(self.path, sorted(found)) if self._releases(path, container_id)]

    async def _pieces(self) -> AsyncIterator[list[str]]:
        """The names in the directory; other tasks run in between. Raises OSError."""
        try:
            entries = os.scandir(self._directory)
        except FileNotFoundError:
            return
        with entries:
            while names := [entry.name for entry in islice(entries, PIECE)]:
                yield names
                if len(names) == PIECE:
                    await asyncio.sleep(0)

    def _sweep(self, path: Path, now: float) -> None:
        with suppress(OSError):  # gone, or a directory: neither is in anybody's way
            if now - path.lstat().st_mtime > STALE_SECONDS:
                path.unlink()

    def _releases(self, path: Path, container_id: str) -> bool:
        """Whether a file releases this container; one that cannot be read now may."""
        try:
            return self.read(path).environment.get("CNI_CONTAINERID") == container_id
        except (FileNotFoundError, Unplayable):
            return False
        except OSError:
            return True

    def path(self, name: str) -> Path:
        """The file of a release."""
        return self._directory / name

    def read(self, path: Path) -> Release:
        """What a file releases. Raises Unplayable, and OSError when it may be readable later (or is gone)."""
        try:
            found = msgspec.json.decode(read_file(path, MOST_RELEASE_BYTES, follow=False), type=Release)
        except Unfit as error:
            raise Unplayable(error.strerror) from error
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise Unplayable(f"not a release: {error}") from error
        subject = _subject(found.environment)
        if path.name.partition("-")[2].removesuffix(ENDING) not in (
            subject,
            _whole_subject(found.environment),
        ):
            raise Unplayable(f"its name is not that of what it releases, {subject}")
        return found

    # -- putting aside, and away --------------------------------------------------------------------------------------

    def set_aside(self, path: Path, reason: str) -> None:
        """A release that can never be carried out: left for the operator, where it does not delay the others.

        Raises OSError.
        """
        refused = self._directory / REFUSED
        refused.mkdir(mode=0o700, exist_ok=True)
        target = refused / path.name
        with suppress(OSError):  # a full disk costs the reason, not the order
            _write_new(target.with_name(path.name + REASON), reason[:LONGEST_REASON])
        path.replace(target)
        self._held = max(0, (self._held or 1) - 1)

    def refused(self) -> Refused:
        """What was put aside and is still there; those that are named are the oldest of those that were counted."""
        refused = self._directory / REFUSED
        try:
            with os.scandir(refused) as entries:
                names = [entry.name for entry in islice(entries, 2 * MOST_REFUSED_COUNTED)]
        except OSError:
            return Refused()
        files = [refused / name for name in sorted(names) if not name.endswith(REASON)]
        return Refused(len(files), tuple((file, _reason(file)) for file in files[:MOST_REFUSED_NAMED]))

    def unwritable(self) -> str | None:
        """Why nothing can be recorded now, as far as the file system says: read-only, or full. None when it can."""
        try:
            found = os.statvfs(self._directory if self._directory.exists() else self._directory.parent)
        except OSError as error:
            return error.strerror
        if found.f_flag & os.ST_RDONLY:
            return "its file system is read-only"
        full = found.f_blocks and found.f_bavail * found.f_frsize < LEAST_FREE_BYTES
        return "its file system is full" if full or (found.f_files and not found.f_favail) else None

    def done(self, path: Path) -> None:
        """Take a release off that was carried out, durably; one that is gone already is success. Raises OSError."""
        try:
            path.unlink()
        except FileNotFoundError:
            return
        self._held = max(0, (self._held or 1) - 1)
        sync_directory(self._directory)


def _subject(environment: Mapping[str, str]) -> str:
    """What the name of a release says of it."""
    container = environment.get("CNI_CONTAINERID", "")
    cut = container if len(container) <= LONGEST_ID_IN_NAME else f"{container[:LONGEST_ID_IN_NAME]}~"
    return f"{cut}-{environment.get('CNI_IFNAME', '')}"


def _whole_subject(environment: Mapping[str, str]) -> str:
    """The same by a shim of an earlier version, which cut nothing."""
    return f"{environment.get('CNI_CONTAINERID', '')}-{environment.get('CNI_IFNAME', '')}"


def _write_new(path: Path, text: str) -> None:
    """A file in place of what was there. Raises OSError."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(text.encode(errors="replace"))


def _reason(path: Path) -> str:
    try:
        return read_file(path.with_name(path.name + REASON), 4 * LONGEST_REASON).decode(errors="replace")
    except OSError:
        return "the reason was not kept"
