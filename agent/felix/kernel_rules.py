"""Reads Felix's rules from the kernel: nftables over netlink, iptables-legacy by getsockopt(2).

Strategy. Chains are listed whole, for that is one dump and says whether anything is Calico's. Rules are read chain by
chain, from the kernel's hooks along the jumps that a new pod's packet takes, so that the thousands of chains for other
pods and policies are never read. A table of iptables-legacy is asked for only if it is loaded: asking loads it.
Promises: changes nothing; no program is run, so the agent's unit needs no further capability; what cannot be read is
named. Does not know: what follows from it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from agent.dataplane.cooperative import run_cooperatively
from agent.felix import legacy_tables, nftables_rules
from agent.felix.felix_rules import (
    CALICO_TABLE,
    CHAIN_PREFIXES,
    COMMENT_PREFIX,
    FilterChain,
    FilterRemains,
    FilterTable,
    is_calicos_chain,
    is_calicos_rule,
    may_meet_new_pod,
)
from agent.felix.nftables_rules import ChainEntry
from agent.netlink import nftables as nft
from agent.netlink.kernel_errors import Unsupported
from agent.netlink.netlink_socket import NETLINK_NETFILTER, UNSUPPORTED_ERRNOS, dump

IPTABLES_TABLES = frozenset({"filter", "nat", "mangle", "raw"})
"""Where an iptables-nft Felix writes; their base chains may hold rules of Calico's without a chain of its own."""
MOST_CHAINS_READ = 256
"""Chains of one table whose rules are read."""
MOST_LEGACY_BYTES = 64 << 20
"""Of one table of iptables-legacy: some 200,000 rules."""
MOST_LEGACY_TABLES = 16
LEGACY_ATTEMPTS = 4
"""Readings of a table that others change meanwhile."""
GET_INFO, GET_ENTRIES = 64, 65
"""IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES, the same numbers in both versions of IP."""
NAME_BYTES = 32
LEGACY = (
    ("ip", 4, socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names"),
    ("ip6", 6, socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names"),
)
CALICOS_MARKS = (*CHAIN_PREFIXES, COMMENT_PREFIX)
ABSENT = UNSUPPORTED_ERRNOS | {errno.ENOENT}

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


async def read_filter_remains() -> FilterRemains:
    """Every table with rules of Calico's. Raises KernelError when nftables cannot be listed."""
    found, unread = [], list[str]()
    names = await _listed(nftables_rules.tables_request(), nft.NEWTABLE, nftables_rules.decode_table)
    chains = await _listed(nftables_rules.chains_request(), nft.NEWCHAIN, nftables_rules.decode_chain)
    for family, name in names:
        own = [chain for chain in chains if (chain.family, chain.table) == (family, name)]
        table = await _nftables_table(family, name, own)
        if table is not None:
            found.append(table)
    for family, version, domain, level, listing in LEGACY:
        for name in _loaded(listing):
            try:
                chains_by_name = await _legacy_chains(name, version, domain, level)
            except (OSError, legacy_tables.BadTable) as error:
                unread.append(f"iptables-legacy table {family} {name}: {error}")
                continue
            table = _with_calicos(
                FilterTable("iptables-legacy", family, name, chains_by_name), chains_by_name
            )
            if table is not None:
                found.append(table)
    return FilterRemains(tuple(found), tuple(unread))


async def read_chain_names(legacy_mark: str) -> list[tuple[str, str, str, str]]:
    """(nftables or iptables-legacy, family, table, name) of every chain of nftables, and of each loaded table of
    iptables-legacy in whose octets a mark is.

    Raises KernelError when nftables cannot be listed, OSError when a legacy table cannot be read.
    """
    chains = await _listed(nftables_rules.chains_request(), nft.NEWCHAIN, nftables_rules.decode_chain)
    found = [("nftables", chain.family, chain.table, chain.name) for chain in chains]
    for family, version, domain, level, listing in LEGACY:
        for name in _loaded(listing):
            try:
                legacy = await _legacy_chains(name, version, domain, level, (legacy_mark,))
            except legacy_tables.BadTable as error:
                raise OSError(f"iptables-legacy table {family} {name}: {error}") from error
            found += [("iptables-legacy", family, name, chain) for chain in legacy]
    return found


async def _listed(request: bytes, kind: int, decode: Callable[[bytes, int, int], T | None]) -> list[T]:
    """A dump; empty where there is no nftables."""
    try:
        return await dump(request, kind, decode, NETLINK_NETFILTER, absent=ABSENT)
    except Unsupported:
        return []


async def _nftables_table(family: str, name: str, entries: list[ChainEntry]) -> FilterTable | None:
    """A table with something of Calico's in it, its chains read as far as a new pod's packet goes."""
    calicos = name == CALICO_TABLE or any(is_calicos_chain(entry.name) for entry in entries)
    if not calicos and name not in IPTABLES_TABLES:
        return None
    by_name = {entry.name: entry for entry in entries}
    waiting = [entry.name for entry in entries if entry.hook]
    read: dict[str, FilterChain] = {}
    while waiting and len(read) < MOST_CHAINS_READ:
        entry = by_name.get(waiting.pop(0))
        if entry is None or entry.name in read:
            continue
        request = nftables_rules.rules_request(family, name, entry.name)
        rules = tuple(await _listed(request, nft.NEWRULE, nftables_rules.decode_rule))
        read[entry.name] = FilterChain(entry.name, rules, entry.hook, entry.drops)
        waiting += [rule.target for rule in rules if rule.target and may_meet_new_pod(rule)]
    return _with_calicos(FilterTable("nftables", family, name, read), by_name)


def _with_calicos(table: FilterTable, names: Iterable[str]) -> FilterTable | None:
    """The table with the number of Calico's chains in it; None when nothing there is Calico's."""
    own = sum(table.owns(name) for name in names)
    rules = (rule for chain in table.chains.values() for rule in chain.rules)
    if not own and not table.is_calicos and not any(map(is_calicos_rule, rules)):
        return None
    return replace(table, calicos_chains=own)


def _loaded(listing: str) -> Iterator[str]:
    """The tables of iptables-legacy that this namespace has."""
    with suppress(OSError):
        yield from Path("/proc/thread-self/net", listing).read_text().split()[:MOST_LEGACY_TABLES]


def legacy_stamp() -> tuple[bytes, ...]:
    """Changes with the number, size or places of the rules in loaded tables of iptables-legacy; some microseconds."""
    found = []
    for _, _, domain, level, listing in LEGACY:
        for name in _loaded(listing):
            with suppress(OSError), socket.socket(domain, socket.SOCK_DGRAM) as opened:
                found.append(_asked(opened, level, GET_INFO, name, legacy_tables.INFO.size))
    return tuple(found)


async def _legacy_chains(
    name: str, version: int, domain: int, level: int, marks: tuple[str, ...] = CALICOS_MARKS
) -> dict[str, FilterChain]:
    """The chains of a loaded table; none where nothing of these marks is in it. Raises OSError, BadTable."""
    with socket.socket(domain, socket.SOCK_DGRAM) as opened:
        for attempt in range(LEGACY_ATTEMPTS):
            info = legacy_tables.decode_info(_asked(opened, level, GET_INFO, name, legacy_tables.INFO.size))
            if info.size > MOST_LEGACY_BYTES:
                raise legacy_tables.BadTable(
                    f"it has {info.size} octets, at most {MOST_LEGACY_BYTES} are read"
                )
            size = legacy_tables.ENTRY_OFFSET + info.size
            try:
                data = _asked(opened, level, GET_ENTRIES, name, size, info.size)
            except OSError as error:
                # The kernel's word for a size that is no longer the table's.
                if error.errno != errno.EAGAIN or attempt == LEGACY_ATTEMPTS - 1:
                    raise
                continue
            if not any(mark.encode() in data for mark in marks):
                return {}
            return await run_cooperatively(
                legacy_tables.decode_entries(data[legacy_tables.ENTRY_OFFSET :], info, version)
            )
    raise AssertionError("the loop above returns or raises")


def _asked(opened: socket.socket, level: int, option: int, name: str, size: int, entries: int = 0) -> bytes:
    """getsockopt(2) with a question in its buffer, which Python's own does not pass. Raises OSError."""
    question = name.encode()[: NAME_BYTES - 1].ljust(NAME_BYTES, b"\0") + entries.to_bytes(4, sys.byteorder)
    buffer = ctypes.create_string_buffer(question, max(size, len(question)))
    length = ctypes.c_uint32(size)
    if _libc.getsockopt(opened.fileno(), level, option, buffer, ctypes.byref(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw[: length.value]
