"""Keeps the bytes of stored values that this agent writes over because nobody can read them, as files.

Promises: what was kept survives a power loss; equal bytes are kept once; at most MOST_FILES of at most
`ipam.stored_json.MOST_BYTES`, of more the oldest goes. Does not know: why a value cannot be read, what is written
instead.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.durable_files import put_file
from ipam.etcd.store import Versioned
from ipam.stored_json import MOST_BYTES

MOST_FILES = 16


class SetAside:
    """The directory `<state>/unreadable`; a file is named `<revision>-<start of the SHA-256 of its content>`."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "unreadable"

    def keep(self, stored: Versioned) -> Path:
        """Write a value down, if it is not there yet. Raises OSError."""
        content = stored.value[:MOST_BYTES]
        digest = hashlib.sha256(content).hexdigest()[:16]
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = sorted(self._directory.glob("[0-9]*-*"), key=lambda path: int(path.name.partition("-")[0]))
        for path in known:
            if path.name.endswith(f"-{digest}"):
                return path
        for path in known[: len(known) - MOST_FILES + 1] if len(known) >= MOST_FILES else ():
            path.unlink(missing_ok=True)
        path = self._directory / f"{stored.revision}-{digest}"
        put_file(path, content, 0o600)
        return path
