"""The bytes of rtnetlink for rules of policy routing (linux/fib_rules.h): which table a packet is looked up in.

Promises: pure; the decoder raises only BadMessage; the rules that every kernel begins with are none.
Does not know: sockets, whether a rule concerns anybody's packets.
"""

from __future__ import annotations

import struct

from agent.netlink.objects import PolicyRule
from agent.netlink.rtnetlink import (
    AF_INET,
    AF_INET6,
    RTM_GETRULE,
    BadMessage,
    address,
    attributes,
    dump_request,
    number,
)

FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK = 1, 2, 3, 6, 10
FRA_TABLE, FRA_OIFNAME = 15, 17
FR_ACT_TO_TBL = 1
_ACTIONS = {2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_TABLES = {253: "default", 254: "main", 255: "local"}
_HEADER = struct.Struct("=BBBBBBBBI")
"""fib_rule_hdr: family, destination length, source length, TOS, table, two reserved, action, flags."""
_KERNELS = {AF_INET: {(0, 255), (32766, 254), (32767, 253)}, AF_INET6: {(0, 255), (32766, 254)}}
"""(priority, table) of the rules without a selector that the kernel begins with (net/ipv4/fib_rules.c)."""


def rule_dump_request(family: int) -> bytes:
    """RTM_GETRULE of all rules of a family."""
    return dump_request(RTM_GETRULE, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def decode_rule(data: bytes, start: int, end: int) -> PolicyRule | None:
    """A rule; None for the kernel's own. Raises BadMessage."""
    if end - start < _HEADER.size:
        raise BadMessage(f"fib_rule_hdr of {end - start} bytes")
    family, to_length, from_length, _, table, _, _, action, _ = _HEADER.unpack_from(data, start)
    words = attributes(data, start + _HEADER.size, end)
    priority = number(words[FRA_PRIORITY]) if FRA_PRIORITY in words else 0
    table = number(words[FRA_TABLE]) if FRA_TABLE in words else table
    said = [
        f"{word} {address(words[kind])}/{length}" if kind in words else ""
        for word, kind, length in (("from", FRA_SRC, from_length), ("to", FRA_DST, to_length))
    ]
    said += [
        f"{word} {words[kind].rstrip(bytes(1)).decode(errors='replace')}" if kind in words else ""
        for word, kind in (("iif", FRA_IIFNAME), ("oif", FRA_OIFNAME))
    ]
    if FRA_FWMARK in words:
        said.append(f"fwmark {number(words[FRA_FWMARK]):#x}")
    selectors = [text for text in said if text]
    if action == FR_ACT_TO_TBL and not selectors and (priority, table) in _KERNELS.get(family, ()):
        return None
    does = (
        f"lookup {_TABLES.get(table, table)}"
        if action == FR_ACT_TO_TBL
        else _ACTIONS.get(action, f"action {action}")
    )
    return PolicyRule(
        6 if family == AF_INET6 else 4, priority, " ".join([*(selectors or ["from all"]), does])
    )
