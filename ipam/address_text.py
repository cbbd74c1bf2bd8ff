"""One text for each address and network, whichever Python writes it.

Keys and documents in etcd are text, and nodes of several systems write them. Of one IPv4-mapped address Python 3.11
makes `::ffff:a09:2`, and 3.13 `::ffff:10.9.0.2`, as RFC 5952 advises, and as inet_ntop, iproute2 and Go's netip do.
Promises: what is stored, compared as text or used as a key is written here, the latter way.
Does not know: what the text is for.
"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network

from ipam.model import Address, Prefix

MAPPED = IPv6Network("::ffff:0:0/96")
"""IPv4 addresses written as IPv6 ones. Go's net.IP, and so Calico, takes them for IPv4."""
_NETWORK = re.compile(r"[0-9A-Fa-f.:]{2,45}(?:/[0-9]{1,3})?")


def text_of(one: Address | Prefix) -> str:
    """The text of an address, alone or with a length, or of a network."""
    address = one.network_address if isinstance(one, IPv6Network) else one
    inside = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if inside is None or not isinstance(address, IPv6Address):
        return str(one)
    _, slash, length = str(one).partition("/")
    scope = f"%{address.scope_id}" if address.scope_id else ""
    return f"::ffff:{inside}{scope}{slash}{length}"


def rewritten(text: str) -> str:
    """An address that another wrote, without its length and as `text_of` writes it; other text up to a slash."""
    with suppress(ValueError):
        text = text_of(ip_interface(text))
    return text.partition("/")[0]


def masked_network(text: str) -> Prefix | None:
    """An address, or a network with or without host bits, as Calico takes it; None of blanks alone.

    Blanks around it are taken off, host bits are masked, an address alone is a network of one, and IPv4 written as IPv6
    is IPv4 (Go's net.ParseCIDR). Raises ValueError.
    """
    bare = text.strip()
    if not bare:
        return None
    try:
        if not _NETWORK.fullmatch(bare):  # no mask in place of a length, no scope
            raise ValueError
        found = ip_network(bare, strict=False)
    except ValueError:
        raise ValueError(
            f"{text[:64]!r} is neither an address nor a network, such as 10.0.0.1 or 10.0.1.0/24"
        ) from None
    if isinstance(found, IPv6Network) and found.subnet_of(MAPPED):
        mask = (1 << 32) - 1
        return IPv4Network((int(found.network_address) & mask, found.prefixlen - MAPPED.prefixlen))
    return found
