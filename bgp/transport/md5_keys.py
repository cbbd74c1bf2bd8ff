"""Which TCP MD5 keys (RFC 2385) a listening socket needs: as few as its peers' passwords allow; a core.

Linux takes a key for a prefix (TCP_MD5SIG_EXT), and of several the one of the longest prefix. It keeps all keys of a
socket within net.core.optmem_max, 20 KiB before Linux 6.7: some 140 keys.

Promises: pure; every peer with a password lies in a prefix of that password, and no peer in one that is not its own.
Does not know: sockets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network

from bgp.wire.families import Address, Prefix

KEY_BYTES = 160
"""What the kernel counts for one key (struct tcp_md5sig_key), and a little more: it differs by version."""
SOCKET_BYTES = 1024
"""Of optmem_max, for what else a socket has."""


def key_prefixes(passwords: Mapping[Address, str]) -> dict[Prefix, str]:
    """Prefix -> password, for all configured peers by their passwords; an empty one is none.

    What lies in a prefix beside peers is nobody that is to connect.
    """
    found: dict[Prefix, str] = {}
    for version in (4, 6):
        of_version = {int(peer): password for peer, password in passwords.items() if peer.version == version}
        found.update(_prefixes(of_version, version))
    return found


def optmem_needed(keys: int) -> int:
    """The net.core.optmem_max with which a socket can have so many keys."""
    return SOCKET_BYTES + keys * KEY_BYTES


def _prefixes(passwords: Mapping[int, str], version: int) -> Iterator[tuple[Prefix, str]]:
    bits = 32 if version == 4 else 128
    waiting = [sorted(passwords)] if passwords else []
    while waiting:
        some = waiting.pop()
        different = (some[0] ^ some[-1]).bit_length()
        if len({passwords[one] for one in some}) == 1:
            if password := passwords[some[0]]:
                first, length = some[0] >> different << different, bits - different
                yield (
                    (IPv4Network((first, length)) if version == 4 else IPv6Network((first, length))),
                    password,
                )
            continue
        middle = some[-1] >> (different - 1) << (different - 1)
        waiting += [[one for one in some if one < middle], [one for one in some if one >= middle]]
