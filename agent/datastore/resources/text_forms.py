"""The forms in which people and other programs write one value, and the one that is stored and shown.

Promises: pure; the forms are those that Calico takes (Go's net.ParseCIDR, ParseIP and ParseMAC; numorstring for AS
numbers), and a value that is none of them stays as it is: `validation` says what is wrong with it.
Does not know: which field is of which sort; a field's type says so by a TextForm.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network
from typing import Annotated, Any

from ipam.address_text import MAPPED, masked_network, text_of
from ipam.model import Address

MOST_CACHED = 1 << 14
"""Texts remembered with their form: a cluster's nodes and pods have the same few again and again."""
LONGEST_TEXT = 128
"""Longer ones are of no sort here: they are not looked at, nor remembered."""
LARGEST_AS = 0xFFFFFFFF
LARGEST_HALF = 0xFFFF
"""Of an AS number in asdot (RFC 5396)."""
LOG_LEVELS = ("Trace", "Debug", "Info", "Warning", "Error", "Fatal")

_DIGITS = re.compile(r"[0-9]{1,10}")
_OCTET = r"[0-9A-Fa-f]{2}"
_MAC = re.compile(
    rf"{_OCTET}(?:(?::{_OCTET}){{5}}|(?:-{_OCTET}){{5}})|[0-9A-Fa-f]{{4}}(?:\.[0-9A-Fa-f]{{4}}){{2}}"
)
_PEER = re.compile(r"(?:\[(?P<long>[^\]]*)\]|(?P<short>[^:\[\]]+))(?P<port>:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class TextForm:
    """In a field's type: what brings a value of it into its one form."""

    canonical: Callable[[Any], Any]


def as_number(value: object) -> object:
    """An AS number as a number: `64514`, `"64514"`, or `"1.10"` for 65546."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        return value
    high, dot, low = value.partition(".")
    if not dot:
        return int(value) if _DIGITS.fullmatch(value) and int(value) <= LARGEST_AS else value
    halves = [int(half) for half in (high, low) if _DIGITS.fullmatch(half)]
    if len(halves) != 2 or max(halves) > LARGEST_HALF:
        return value
    return halves[0] << 16 | halves[1]


def _of_text(read: Callable[[str], str]) -> Callable[[Any], Any]:
    """A form of texts; other values, and texts of which `read` raises ValueError, stay as they are."""

    @lru_cache(maxsize=MOST_CACHED)
    def cached(text: str) -> str:
        try:
            return read(text)
        except ValueError:
            return text

    return lambda value: cached(value) if isinstance(value, str) and len(value) <= LONGEST_TEXT else value


def _network(text: str) -> str:
    found = masked_network(text)
    return text_of(found) if found is not None else text


def _strict(text: str) -> str:
    found = ip_network(text.strip())  # host bits are no slip of form here: they stay, and are refused
    if "." in text.partition("/")[2] or "%" in text:
        raise ValueError
    return _network(text) if found.version == 6 and found.subnet_of(MAPPED) else text_of(found)


def _pool_network(text: str) -> str:
    found = _strict(text)
    return found if "/" in text and (":" in text) == (":" in found) else text


def _plain(text: str) -> Address:
    """An address without a scope; IPv4 written as IPv6 is IPv4, as in Go. Raises ValueError."""
    found = ip_address(text.strip())
    if found.version == 6 and found.scope_id is not None:
        raise ValueError
    inside = found.ipv4_mapped if found.version == 6 else None
    return inside if inside is not None else found


def _interface(text: str) -> str:
    bare, slash, length = text.strip().partition("/")
    address = _plain(bare)
    if slash and not length.isdecimal():
        raise ValueError
    return text_of(ip_interface(f"{text_of(address)}/{length if slash else address.max_prefixlen}"))


def _zoned(text: str) -> Address | None:
    """A link-local address with its interface: a peer's, on one link."""
    found = ip_address(text.strip())
    return found if found.version == 6 and found.is_link_local and found.scope_id else None


def _peer(text: str) -> str:
    bare = text.strip()
    found = _PEER.fullmatch(bare)
    if found is None:
        return text_of(_zoned(bare) or _plain(bare))
    bare = found["long"] if found["short"] is None else found["short"]
    address = _zoned(bare) or _plain(bare)
    port = int(found["port"][1:]) if found["port"] else None
    if port is None:
        return text_of(address)
    return f"[{text_of(address)}]:{port}" if address.version == 6 else f"{address}:{port}"


def _mac(text: str) -> str:
    if not _MAC.fullmatch(text):
        return text
    digits = re.sub(r"[^0-9A-Fa-f]", "", text).lower()
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


network = _of_text(_network)
"""A network, masked, with its length; an address alone is a network of one. For fields that Calico masks."""
strict_network = _of_text(_strict)
"""The same, not masked: Calico refuses host bits here."""
pool_network = _of_text(_pool_network)
"""The same, with its length and its family as they were written: a pool is for life."""
address = _of_text(lambda text: text_of(_plain(text)))
"""A single address without a length."""
interface = _of_text(_interface)
"""An address with the length of its subnet; without one it is alone in it."""
peer = _of_text(_peer)
"""An address, perhaps with a port: `10.0.0.1:1790`, `[fd00::1]:1790`, `fe80::1%eth1`."""
mac = _of_text(_mac)
"""Six octets, with colons and in lower case."""
log_level = _of_text(lambda text: text.capitalize() if text.capitalize() in LOG_LEVELS else text)


def networks(value: object) -> object:
    """Networks, each once; blanks and null are none. With one that cannot be read all stay as they are."""
    if not isinstance(value, list) or not all(one is None or isinstance(one, str) for one in value):
        return value
    texts = [text for text in value if text is not None and text.strip()]
    try:
        return list(dict.fromkeys(map(_network, texts)))
    except ValueError:
        return ["" if text is None else text for text in value]


Network = Annotated[str, TextForm(network)]
StrictNetwork = Annotated[str, TextForm(strict_network)]
Networks = Annotated[list[str], TextForm(networks)]
PoolNetwork = Annotated[str, TextForm(pool_network)]
SingleAddress = Annotated[str, TextForm(address)]
InterfaceAddress = Annotated[str, TextForm(interface)]
PeerText = Annotated[str, TextForm(peer)]
MacText = Annotated[str, TextForm(mac)]
LogLevel = Annotated[str, TextForm(log_level)]
