"""Which peers a person disabled: in a file, so that it outlives the agent and the machine, until somebody enables them.

Promises: the file is whole or not there; it is written before anything follows from it. One that cannot be read
disables nobody, which `unreadable` says, and stays as it is until somebody disables or enables a peer.
Does not know: BGP, what disabling means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

import msgspec

from agent.durable_files import put_file
from agent.foreign_files import read_file
from bgp.wire.families import Address

FILE_NAME = "disabled-peers.json"
MOST_FILE_BYTES = 1 << 20
MOST_DISABLED = 256
"""A node that should have no peers at all is drained."""
LONGEST_TEXT_BYTES = 255
"""RFC 9003: one octet for the length."""


@dataclass(frozen=True, slots=True)
class Disabled:
    """Since when, and the text that the peer's operators read (RFC 9003)."""

    since: datetime
    text: str = ""


def _is_too_long(text: str) -> bool:
    return len(text.encode(errors="replace")) > LONGEST_TEXT_BYTES


class DisabledPeers:
    """The file `disabled-peers.json` in the state directory."""

    def __init__(self, state: Path) -> None:
        self._path = state / FILE_NAME
        self.unreadable = ""
        """Why the file could not be read; empty: it could, or there is none."""
        self.peers: Mapping[Address, Disabled] = self._read()

    def _read(self) -> dict[Address, Disabled]:
        try:
            found = msgspec.json.decode(read_file(self._path, MOST_FILE_BYTES), type=dict[str, Disabled])
            peers = {ip_address(address): one for address, one in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            self.unreadable = str(error)
            return {}
        if len(peers) > MOST_DISABLED or any(_is_too_long(one.text) for one in peers.values()):
            self.unreadable = (
                f"more than {MOST_DISABLED} peers, or a text of more than {LONGEST_TEXT_BYTES} bytes"
            )
            return {}
        return peers

    def disable(self, peer: Address, disabled: Disabled) -> None:
        """Store it; a text in place of an earlier one. Raises ValueError for too much, OSError."""
        if _is_too_long(disabled.text):
            raise ValueError(f"the text must be at most {LONGEST_TEXT_BYTES} bytes (RFC 9003)")
        if peer not in self.peers and len(self.peers) >= MOST_DISABLED:
            raise ValueError(f"{MOST_DISABLED} peers are disabled already; tortie drain leaves all of them")
        self._write({**self.peers, peer: disabled})

    def enable(self, peer: Address) -> None:
        """Store that it is not disabled. Raises ValueError where it is not, OSError."""
        if peer not in self.peers:
            raise ValueError(f"{peer} is not disabled")
        self._write({address: one for address, one in self.peers.items() if address != peer})

    def _write(self, peers: Mapping[Address, Disabled]) -> None:
        put_file(
            self._path, msgspec.json.encode({str(address): one for address, one in peers.items()}), 0o644
        )
        self.peers, self.unreadable = peers, ""
