"""Files that survive a power loss whole: written beside their place, synced, renamed.

Promises: whoever reads meanwhile sees the old content or the new one; what was written is on the disk when the call
returns; a write that fails leaves the old file. One that is killed leaves `.<random>.new` beside it.
Does not know: what is in a file.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

TEMPORARY = ".new"
"""How the names of files end that are being written."""


def put_file(path: Path, content: bytes, mode: int) -> bool:
    """Write a file; False when it has this content and mode already. Raises OSError."""
    if path.exists() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
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


def sync_directory(path: Path) -> None:
    """Have names that came and went survive a power loss too. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
