"""Files that survive a power loss whole: written beside their place, synced, renamed.

Promises: whoever reads meanwhile sees the old content or the new one; what was written is on the disk when the call
returns; a write that fails (a full disk) leaves the old file, and nothing beside it. One that is killed leaves
`.<random>.new` beside it, for `sweep` to remove. What stands in a file's place is never waited for: a FIFO is replaced.
Does not know: what is in a file.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from agent.foreign_files import open_file

TEMPORARY = ".new"
"""How the names of files end that are being written."""
UNFINISHED = re.compile(r"\..*\.new")
MOST_SWEPT = 1000


def put_file(path: Path, content: bytes, mode: int) -> bool:
    """Write a file; False when it has this content and mode already. Raises OSError."""
    if _holds(path, content, mode):
        return False
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=TEMPORARY)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return True


def _holds(path: Path, content: bytes, mode: int) -> bool:
    try:
        descriptor = open_file(path)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        alike = (found.st_size, found.st_mode & 0o777) == (len(content), mode)
        return alike and os.read(descriptor, len(content) + 1) == content
    finally:
        os.close(descriptor)


def sweep(directory: Path) -> None:
    """Remove what killed writers left unfinished in a directory that nobody writes in at this moment."""
    with suppress(OSError), os.scandir(directory) as entries:
        unfinished = [entry.path for entry in entries if UNFINISHED.fullmatch(entry.name)]
        for path in unfinished[:MOST_SWEPT]:
            with suppress(OSError):
                os.unlink(path)


def sync_directory(path: Path) -> None:
    """Have names that came and went survive a power loss too. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
