"""The addresses of the datastore's members: what no prefix may take from this node.

Promises: an endpoint that is an address is known from the start, a name once it was resolved; a name that cannot be
resolved keeps the addresses it had; asking never waits. Does not know: what the datastore is, whether it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from agent.netlink.objects import Address

RESOLVE_SECONDS = 60.0
"""A name is resolved again this often; no resolver is asked longer than this."""
MOST_ADDRESSES = 16
"""Of one name."""


class DatastoreAddresses:
    """Resolves the endpoints of a configuration again and again; a shell."""

    def __init__(self, endpoints: Iterable[str], changed: Callable[[], None]) -> None:
        self._changed = changed
        hosts = [urlsplit(one if "//" in one else f"//{one}").hostname or "" for one in endpoints]
        self._literal = frozenset(
            address for host in hosts if (address := _literal_address(host)) is not None
        )
        self._names = tuple(dict.fromkeys(host for host in hosts if host and _literal_address(host) is None))
        self._resolved: dict[str, frozenset[Address]] = {}
        self.addresses = self._literal
        """As far as they are known; one value until something changes."""

    async def run(self) -> None:
        """Resolve names until cancelled."""
        while True:
            await self.resolve()
            await asyncio.sleep(RESOLVE_SECONDS)

    async def resolve(self) -> None:
        """Resolve each name once, and report a change."""
        loop = asyncio.get_running_loop()
        for name in self._names:
            try:
                async with asyncio.timeout(RESOLVE_SECONDS):
                    entries = await loop.getaddrinfo(name, None)
            except (OSError, UnicodeError):  # TimeoutError is an OSError
                continue
            found = (_literal_address(str(entry[4][0])) for entry in entries[:MOST_ADDRESSES])
            self._resolved[name] = frozenset(one for one in found if one is not None)
        addresses = self._literal.union(*self._resolved.values())
        if addresses != self.addresses:
            self.addresses = addresses
            self._changed()


def _literal_address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
