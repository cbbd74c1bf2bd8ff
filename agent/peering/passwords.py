"""Passwords of BGP peers: the file DIRECTORY/NAME/KEY for each secretKeyRef.

Promises: a file that others may read is refused; a password that was read once stays in use while its file is missing
or wrong, so that a slip of the hand ends no session; nothing here is ever logged. A changed file is read again.
Does not know: which peer needs a password.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from agent.foreign_files import open_file
from agent.peering.uplink_peers import SecretRef

MOST_SECRET_BYTES = 4096
FileVersion = tuple[int, int, int]
"""Inode, size and time of change in ns: a file that differs in one of them is read again."""


class PasswordFiles:
    """The passwords below one directory; a shell."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[SecretRef, tuple[FileVersion, str]] = {}
        self.unreadable: dict[SecretRef, str] = {}
        """Secrets of the last `read` whose files cannot be used as they are now, and why."""

    def read(self, required: Iterable[SecretRef]) -> dict[SecretRef, str]:
        """The passwords of these secrets; the last good one where the file is bad now. Drops all others."""
        required = frozenset(required)
        self._known = {ref: known for ref, known in self._known.items() if ref in required}
        self.unreadable = {}
        for ref in sorted(required):
            try:
                self._look(ref)
            except OSError as error:
                self.unreadable[ref] = f"{self._path(ref)}: {error.strerror}"
            except ValueError as error:
                self.unreadable[ref] = str(error)
        return {ref: password for ref, (_, password) in self._known.items()}

    def _path(self, ref: SecretRef) -> Path:
        return self._directory / ref[0] / ref[1]

    def _look(self, ref: SecretRef) -> None:
        path = self._path(ref)
        descriptor = open_file(path)
        try:
            found = os.fstat(descriptor)
            if found.st_mode & 0o007:
                raise ValueError(f"{path}: open to everybody; chmod it to 0640 or less")
            seen = (found.st_ino, found.st_size, found.st_ctime_ns)
            if ref not in self._known or self._known[ref][0] != seen:
                self._known[ref] = (seen, _text(path, os.read(descriptor, MOST_SECRET_BYTES + 1)))
        finally:
            os.close(descriptor)


def _text(path: Path, data: bytes) -> str:
    try:
        text = data.decode().rstrip("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text") from None
    if not text or len(data) > MOST_SECRET_BYTES:
        raise ValueError(f"{path}: must hold a password of 1 to {MOST_SECRET_BYTES} bytes")
    return text
