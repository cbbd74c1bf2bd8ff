"""A table of iptables-legacy, from the kernel's own form of it (linux/netfilter_ipv4/ip_tables.h, ip6_tables.h).

Promises: pure; octets that do not fit together raise BadTable, and no loop runs beyond them; a match that is not known
makes its rule a conditional one. Does not know: sockets, what is Calico's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agent.dataplane.cooperative import Work
from agent.felix.felix_rules import Action, FilterChain, FilterRule
from agent.felix.nftables_rules import HOOKS

INFO = struct.Struct("=32sI5I5III")
"""struct ipt_getinfo: name, valid hooks, their entries and policies as offsets, count and size of the entries."""
ENTRY_OFFSET = 40
"""struct ipt_get_entries: name and size, padded to 8 octets."""
IFNAME_BYTES = 16
EXTENSION = struct.Struct("=H29sB")
"""xt_entry_match and xt_entry_target: size with what follows, name, revision."""
ERROR, STANDARD = "ERROR", ""
"""The targets that begin a chain (and name it), and that decide."""
PIECE = 1000
"""Entries in one piece: some 10 ms."""
VERDICTS = {-1: Action.DROP, -2: Action.ACCEPT, -5: Action.RETURN}


class BadTable(Exception):
    """Octets that are no table."""


@dataclass(frozen=True, slots=True)
class EntryLayout:
    """Where things lie in an entry of one version of IP."""

    interfaces: int
    addresses: slice
    """Source, destination and their masks."""
    protocol: slice
    flags: int
    inverted: int
    goto: int
    """The flag of a goto among `flags`."""
    offsets: int
    """target_offset and next_offset."""
    size: int


LAYOUTS = {
    4: EntryLayout(16, slice(0, 16), slice(80, 82), 82, 83, 0x02, 88, 112),
    6: EntryLayout(64, slice(0, 64), slice(128, 130), 131, 132, 0x04, 140, 168),
}


@dataclass(frozen=True, slots=True)
class TableInfo:
    """What the kernel says of a table before its entries."""

    hooks: tuple[tuple[str, int, int], ...]
    """Hook, offset of its first entry, offset of its policy."""
    size: int


def decode_info(data: bytes) -> TableInfo:
    """struct ipt_getinfo. Raises BadTable."""
    if len(data) < INFO.size:
        raise BadTable(f"{len(data)} octets are no ipt_getinfo")
    _, valid, *rest, _, size = INFO.unpack_from(data)
    starts, policies = rest[:5], rest[5:10]
    found = tuple((hook, starts[n], policies[n]) for n, hook in enumerate(HOOKS) if valid >> n & 1)
    return TableInfo(found, size)


def decode_entries(data: bytes, info: TableInfo, version: int) -> Work[dict[str, FilterChain]]:
    """The chains of a table's entries, a piece at a time. Raises BadTable."""
    layout = LAYOUTS[version]
    starts = {start: hook.upper() for hook, start, _ in info.hooks}
    policies = {policy: hook.upper() for hook, _, policy in info.hooks}
    offsets = []
    following = ""
    for number, (offset, entry, target) in enumerate(_entries(data, layout)):
        offsets.append((offset, entry, target))
        if following:
            starts[offset] = following
        following = _text(entry[target + EXTENSION.size :]) if _target(entry, target) == ERROR else ""
        if number % PIECE == PIECE - 1:
            yield
    rules = dict[str, list[FilterRule]]()
    drops = dict[str, bool]()
    own: list[FilterRule] = []
    for number, (offset, entry, target) in enumerate(offsets):
        if offset in starts:
            own = rules.setdefault(starts[offset], [])
        if _target(entry, target) != ERROR:
            rule = _rule(entry, target, layout, starts)
            if offset in policies:
                drops[policies[offset]] = rule.action is Action.DROP
            else:
                own.append(rule)
        if number % PIECE == PIECE - 1:
            yield
    hooked = {hook.upper(): hook for hook, _, _ in info.hooks}
    return {
        name: FilterChain(name, tuple(found), hooked.get(name, ""), drops.get(name, False))
        for name, found in rules.items()
    }


def _entries(data: bytes, layout: EntryLayout) -> Iterator[tuple[int, bytes, int]]:
    """Offset, the entry, and where in it its target is."""
    offset = 0
    while offset < len(data):
        if offset + layout.size > len(data):
            raise BadTable(f"an entry is cut off at {offset}")
        target, following = struct.unpack_from("=HH", data, offset + layout.offsets)
        if target < layout.size or following < target + EXTENSION.size or offset + following > len(data):
            raise BadTable(f"the entry at {offset} does not fit")
        yield offset, data[offset : offset + following], target
        offset += following


def _target(entry: bytes, at: int) -> str:
    _, name, _ = EXTENSION.unpack_from(entry, at)
    return _text(name)


def _text(octets: bytes) -> str:
    return octets.split(b"\0")[0].decode(errors="replace")


def _rule(entry: bytes, at: int, layout: EntryLayout, starts: dict[int, str]) -> FilterRule:
    target, words = _target(entry, at), entry[at + EXTENSION.size :]
    incoming, outgoing = _interface(entry, layout, 0), _interface(entry, layout, 1)
    matches = list(_matches(entry, layout))
    comments = [_text(content) for name, content in matches if name == "comment"]
    conditional = (
        len(comments) < len(matches)
        or any(entry[layout.addresses])
        or any(entry[layout.protocol])
        or entry[layout.inverted] != 0
    )
    action, chain = Action.NONE, ""
    if target == STANDARD and len(words) >= 4:
        (verdict,) = struct.unpack_from("=i", words)
        if verdict >= 0:
            action = Action.GOTO if entry[layout.flags] & layout.goto else Action.JUMP
            chain = starts.get(verdict, "")
        else:
            action = VERDICTS.get(verdict, Action.NONE)
    elif target == "REJECT":
        action = Action.REJECT
    return FilterRule(action, chain, incoming, outgoing, conditional, "; ".join(comments))


def _interface(entry: bytes, layout: EntryLayout, which: int) -> str:
    """The interface asked for; the mask says how much of the name counts, its end included or not."""
    at = layout.interfaces + which * IFNAME_BYTES
    name = entry[at : at + IFNAME_BYTES]
    counted = sum(1 for octet in entry[at + 2 * IFNAME_BYTES : at + 3 * IFNAME_BYTES] if octet)
    if not counted:
        return ""
    return _text(name) if counted > len(_text(name)) else f"{_text(name[:counted])}*"


def _matches(entry: bytes, layout: EntryLayout) -> Iterator[tuple[str, bytes]]:
    (end,) = struct.unpack_from("=H", entry, layout.offsets)
    offset = layout.size
    while offset + EXTENSION.size <= end:
        size, name, _ = EXTENSION.unpack_from(entry, offset)
        if size < EXTENSION.size or offset + size > end:
            raise BadTable("a match does not fit")
        yield _text(name), entry[offset + EXTENSION.size : offset + size]
        offset += size
