"""Checks of single fields, common to all kinds: each gives a sentence, field first, for what cannot be used.

Promises: pure; a field that is not given is no error. Does not know: kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from ipaddress import ip_address, ip_network

from ipam.model import Address, Prefix


def readable(field: str, text: str | None, read: Callable[[str], object]) -> Iterator[str]:
    """A text that `read` takes; its ValueError says what is wrong."""
    try:
        if text is not None:
            read(text)
    except ValueError as error:
        yield f"{field}: {error}"


def one_of(field: str, word: str | None, words: Iterable[str | Enum]) -> Iterator[str]:
    """A word out of a list, or a value of an Enum."""
    known = [str(one.value) if isinstance(one, Enum) else one for one in words]
    if word is not None and word not in known:
        yield f"{field}: {word!r} is none of {', '.join(known)}"


def address_of(version: int) -> Callable[[str], Address]:
    """A reader of addresses of a version of IP."""

    def read(text: str) -> Address:
        try:
            if (found := ip_address(text)).version == version:
                return found
        except ValueError:
            pass
        raise ValueError(f"{text!r} is not an IPv{version} address")

    return read


def network_of(version: int | None) -> Callable[[str], Prefix]:
    """A reader of networks of a version of IP; None: of either."""

    def read(text: str) -> Prefix:
        found = ip_network(text)
        if version not in (None, found.version):
            raise ValueError(f"{text} is not IPv{version}")
        return found

    return read
