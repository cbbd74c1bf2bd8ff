"""Reads and replaces our nftables table over its own netlink family; nft(8) is not needed.

Promises: a replacement is one transaction. Does not know: the pools.
"""

from __future__ import annotations

import errno
from ipaddress import IPv4Network

from agent.dataplane import nft
from agent.dataplane.kernel import KernelError, Unsupported
from agent.dataplane.netlink_socket import (
    NETLINK_NETFILTER,
    UNSUPPORTED_ERRNOS,
    Refused,
    RequestSocket,
    dump,
    reason,
)
from agent.dataplane.objects import Masquerade

ABSENT = UNSUPPORTED_ERRNOS | {errno.ENOENT}
"""For a read: there is no table, or nothing that could hold one."""
NO_NFTABLES = (
    "this kernel has no nftables ip family: natOutgoing is not in force; load nf_tables and nft_masq"
)


class Nftables:
    """Our table in the namespace the process is in."""

    def __init__(self) -> None:
        self._requests: RequestSocket | None = None

    async def read(self) -> Masquerade | None:
        """What the table holds, networks collapsed; an empty value when it is not as this agent makes it."""
        try:
            rules = await dump(nft.rules_request(), nft.NEWRULE, nft.decode_rule, NETLINK_NETFILTER)
            sources, pools = [await self._networks(name) for name in (nft.SOURCES, nft.POOLS)]
        except Refused as error:
            if error.code in ABSENT:
                return None
            raise
        except Unsupported:
            return None
        return Masquerade(sources, pools) if rules == [nft.RULE_SHAPE] else Masquerade()

    async def _networks(self, name: str) -> frozenset[IPv4Network]:
        parts = await dump(nft.elements_request(name), nft.NEWSETELEM, nft.decode_elements, NETLINK_NETFILTER)
        return nft.networks_of(edge for part in parts for edge in part)

    async def replace(self, wish: Masquerade) -> None:
        """One transaction. Raises Unsupported without nftables' ip family or masquerading, KernelError."""
        if self._requests is None:
            self._requests = RequestSocket(NETLINK_NETFILTER)
        refused = self._requests.transaction(nft.replacement(wish))
        if not refused:
            return
        code, words = next(iter(refused.values()))
        if code in ABSENT:
            if wish.sources:
                raise Unsupported(f"{NO_NFTABLES} ({reason(code, words)})")
            return
        raise KernelError(f"replacing the nftables table {nft.TABLE}: {reason(code, words)}")

    @property
    def ports(self) -> frozenset[int]:
        """The netlink port that notifications of our changes bear."""
        return frozenset() if self._requests is None else frozenset({self._requests.port})

    def close(self) -> None:
        """Close the socket."""
        if self._requests is not None:
            self._requests.close()
