"""Reads and replaces our nftables tables, and opens others' forward chains; without nft(8).

Promises: a replacement of a table is one transaction. Does not know: the pools.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from agent.netlink import nft_forward, nft_masquerade
from agent.netlink.kernel_errors import KernelError, Unsupported
from agent.netlink.netlink_socket import (
    NETLINK_NETFILTER,
    UNSUPPORTED_ERRNOS,
    Refused,
    RequestSocket,
    dump,
    reason,
)
from agent.netlink.nft_masquerade import Family
from agent.netlink.objects import ForwardChain, ForwardKey, Masquerade, Prefix

ABSENT = UNSUPPORTED_ERRNOS | {errno.ENOENT}
"""For a read: there is no table, or nothing that could hold one."""
NO_NFTABLES = (
    "this kernel has no nftables {family} family: natOutgoing is not in force; "
    "load nf_tables and nft_masq ({why})"
)


class Nftables:
    """Our table in the namespace the process is in."""

    def __init__(self) -> None:
        self._requests: RequestSocket | None = None

    async def read(self) -> Masquerade | None:
        """What the tables hold, networks collapsed; None when there is none, empty when one is not as made here."""
        found = [
            part for family in nft_masquerade.FAMILIES if (part := await self._table(family)) is not None
        ]
        if not found or any(not part.sources for part in found):
            return Masquerade() if found else None
        return Masquerade(
            frozenset().union(*(part.sources for part in found)),
            frozenset().union(*(part.pools for part in found)),
        )

    async def _table(self, family: Family) -> Masquerade | None:
        try:
            rules = await dump(
                nft_masquerade.rules_request(family),
                nft_masquerade.NEWRULE,
                nft_masquerade.decode_rule,
                NETLINK_NETFILTER,
            )
            sources, pools = [
                await self._networks(name, family) for name in (nft_masquerade.SOURCES, nft_masquerade.POOLS)
            ]
        except Refused as error:
            if error.code in ABSENT:
                return None
            raise
        except Unsupported:
            return None
        return Masquerade(sources, pools) if rules == [nft_masquerade.RULE_SHAPE] else Masquerade()

    async def _networks(self, name: str, family: Family) -> frozenset[Prefix]:
        request = nft_masquerade.elements_request(name, family)
        parts = await dump(
            request, nft_masquerade.NEWSETELEM, nft_masquerade.decode_elements, NETLINK_NETFILTER
        )
        return nft_masquerade.networks_of((edge for part in parts for edge in part), family)

    async def put(self, wish: Masquerade) -> None:
        """One transaction a table. Raises Unsupported without nftables' families or masquerading, KernelError."""
        for family in nft_masquerade.FAMILIES:
            self._replace(wish.of_version(family.version), family)

    def _replace(self, wish: Masquerade, family: Family) -> None:
        if self._requests is None:
            self._requests = RequestSocket(NETLINK_NETFILTER)
        refused = self._requests.transaction(nft_masquerade.replacement(wish, family))
        if not refused:
            return
        code, words = next(iter(refused.values()))
        if code in ABSENT:
            if wish.sources:
                raise Unsupported(NO_NFTABLES.format(family=family.name, why=reason(code, words)))
            return
        raise KernelError(
            f"replacing the nftables table {family.name} {nft_masquerade.TABLE}: {reason(code, words)}"
        )

    async def forward_chains(self) -> dict[ForwardKey, ForwardChain]:
        """Others' base chains at the forward hook. Raises KernelError."""
        try:
            request, kind = nft_forward.chains_request(), nft_masquerade.NEWCHAIN
            found = await dump(request, kind, nft_forward.decode_chain, NETLINK_NETFILTER)
            return {chain.key: replace(chain, opened=bool(await self._our_rules(chain))) for chain in found}
        except Unsupported:
            return {}
        except Refused as error:
            if error.code in ABSENT:
                return {}
            raise

    async def _our_rules(self, chain: ForwardChain) -> list[bytes]:
        request = nft_forward.rules_request(chain)
        try:
            rows = await dump(request, nft_masquerade.NEWRULE, nft_forward.decode_rule, NETLINK_NETFILTER)
        except Refused as error:
            if error.code in ABSENT:
                return []
            raise
        return [row.handle for row in rows if row.is_ours]

    async def put_forward_chain(self, chain: ForwardChain) -> None:
        """Put our rules first, or take them out. Raises KernelError."""
        ours = await self._our_rules(chain)
        if chain.opened:
            batch = [] if ours else nft_forward.opening(chain)
        else:
            batch = nft_forward.closing(chain, ours) if ours else []
        if not batch:
            return
        if self._requests is None:
            self._requests = RequestSocket(NETLINK_NETFILTER)
        for code, words in self._requests.transaction(batch).values():
            if code not in ABSENT:
                text = " ".join(chain.key)
                raise KernelError(f"letting pods through the chain {text}: {reason(code, words)}")

    @property
    def ports(self) -> frozenset[int]:
        """The netlink port that notifications of our changes bear."""
        return frozenset() if self._requests is None else frozenset({self._requests.port})

    def close(self) -> None:
        """Close the socket."""
        if self._requests is not None:
            self._requests.close()
