"""Whether this node is drained: an operator's decision, in a file so that it outlives the agent.

Promises: the file is whole or not there; one that cannot be read counts as a drain without a text, because one was
asked for.
Does not know: BGP, what draining means.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from agent.durable_files import put_file
from agent.foreign_files import read_file

FILE_NAME = "drained.json"
MOST_FILE_BYTES = 4096
LONGEST_TEXT_BYTES = 255
"""RFC 9003: one octet for the length."""


@dataclass(frozen=True, slots=True)
class Drained:
    """Since when, and the text that peers get in their NOTIFICATION (RFC 9003)."""

    since: datetime
    text: str = ""


class DrainFile:
    """The file `drained.json` in the state directory."""

    def __init__(self, state: Path) -> None:
        self._path = state / FILE_NAME

    def read(self) -> Drained | None:
        """The drain, if there is one."""
        try:
            return msgspec.json.decode(read_file(self._path, MOST_FILE_BYTES), type=Drained)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, RecursionError):
            return Drained(datetime.fromtimestamp(0, UTC))

    def write(self, drained: Drained | None) -> None:
        """Store a drain, or (None) remove it. Raises OSError."""
        if drained is None:
            self._path.unlink(missing_ok=True)
            return
        put_file(self._path, msgspec.json.encode(drained), 0o644)
