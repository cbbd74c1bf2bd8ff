"""Reads and writes our nftables tables, and opens others' forward chains; without nft(8).

Promises: a replacement of a table is one transaction. Does not know: the pools.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace

from agent.dataplane.kernel import filter_table, forward_rules, masquerade_table
from agent.dataplane.kernel.dataplane_objects import (
    FilterSet,
    ForwardChain,
    ForwardKey,
    Masquerade,
    WorkloadFilter,
)
from agent.dataplane.kernel.masquerade_table import Family
from agent.netlink import nftables as nft
from agent.netlink.kernel_errors import KernelError, Unsupported
from agent.netlink.netlink_socket import (
    NETLINK_NETFILTER,
    UNSUPPORTED_ERRNOS,
    NlmsgError,
    RequestSockets,
    dump,
    reason,
)
from agent.netlink.objects import Prefix

ABSENT = UNSUPPORTED_ERRNOS | {errno.ENOENT}
"""For a read: there is no table, or nothing that could hold one."""
NO_NFTABLES = (
    "this kernel has no nftables {family} family: natOutgoing is not in force; "
    "load nf_tables and nft_masq ({why})"
)
NO_FILTER = f"this kernel cannot hold the nftables table {filter_table.NAME}: {{why}}"


class Ruleset:
    """The part of a kernel that is the nftables ruleset, as far as it concerns us."""

    _sockets: RequestSockets

    async def masquerade(self) -> Masquerade | None:
        """What the tables hold, networks collapsed; None when there is none, empty when one is not as made here."""
        found = [
            part for family in masquerade_table.FAMILIES if (part := await self._table(family)) is not None
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
                masquerade_table.rules_request(family),
                nft.NEWRULE,
                masquerade_table.decode_rule,
                NETLINK_NETFILTER,
            )
            sources, pools = [
                await self._networks(name, family)
                for name in (masquerade_table.SOURCES, masquerade_table.POOLS)
            ]
        except NlmsgError as error:
            if error.code in ABSENT:
                return None
            raise
        except Unsupported:
            return None
        return Masquerade(sources, pools) if rules == [masquerade_table.RULE_SHAPE] else Masquerade()

    async def _networks(self, name: str, family: Family) -> frozenset[Prefix]:
        request = masquerade_table.elements_request(name, family)
        parts = await dump(request, nft.NEWSETELEM, masquerade_table.decode_elements, NETLINK_NETFILTER)
        return masquerade_table.networks_of((edge for part in parts for edge in part), family)

    async def put_masquerade(self, masquerade: Masquerade) -> None:
        """Replace our tables, each in one transaction; a version without sources has none after.

        Raises Unsupported without nftables' families or masquerading, KernelError.
        """
        for family in masquerade_table.FAMILIES:
            wanted = masquerade.of_version(family.version)
            for code, words in self._transaction(masquerade_table.replacement(wanted, family)).values():
                why = reason(code, words)
                if code not in ABSENT:
                    table = f"{family.name} {masquerade_table.TABLE}"
                    raise KernelError(f"replacing the nftables table {table}: {why}")
                if wanted.sources:
                    raise Unsupported(NO_NFTABLES.format(family=family.name, why=why))
                break

    async def workload_filter(self) -> WorkloadFilter | None:
        """What our table between workloads and nodes holds; None when there is none. Raises KernelError."""
        try:
            rules = await self._filter_rules()
            if rules is None:
                return None
            elements = [
                element
                for which in filter_table.SETS
                for pair in await self._filter_keys(which)
                for element in filter_table.elements_of(which, pair)
            ]
        except Unsupported:
            return None
        flags, found = rules
        return filter_table.filter_of(elements, intact=filter_table.is_intact(flags, found))

    async def _filter_rules(self) -> tuple[list[int], list[filter_table.RuleFound]] | None:
        """The flags of our table, and its rules; None when there is no table."""
        request, decode = filter_table.table_request(), filter_table.decode_table
        flags = await dump(request, nft.NEWTABLE, decode, NETLINK_NETFILTER, absent=ABSENT)
        if not flags:
            return None
        request, decode_rule = filter_table.rules_request(), filter_table.decode_rule
        return flags, await dump(request, nft.NEWRULE, decode_rule, NETLINK_NETFILTER, absent=ABSENT)

    async def _filter_keys(self, which: FilterSet) -> list[filter_table.Pair]:
        request = filter_table.elements_request(which)
        decode = filter_table.decode_keys
        parts = await dump(request, nft.NEWSETELEM, decode, NETLINK_NETFILTER, absent=ABSENT)
        return [pair for part in parts for pair in part]

    async def put_workload_filter(self, wanted: WorkloadFilter | None, was: WorkloadFilter | None) -> None:
        """Have the table be so, or not be. Raises Unsupported, KernelError."""
        if wanted is not None and was is not None and was.is_intact:
            batch = filter_table.change(wanted, was)
            if not batch or not self._transaction(batch):
                return  # what is refused as a change may do as a whole: somebody may have changed it meanwhile
        batch = filter_table.creation(wanted) if wanted is not None else filter_table.removal()
        for code, words in self._transaction(batch).values():
            why = reason(code, words)
            if code not in ABSENT:
                raise KernelError(f"writing the nftables table {filter_table.NAME}: {why}")
            if wanted is not None:
                raise Unsupported(NO_FILTER.format(why=why))

    async def filter_drops(self) -> Mapping[str, int]:
        """Reason -> packets that the table has dropped. Raises KernelError."""
        try:
            rules = await self._filter_rules()
        except Unsupported:
            return {}
        return filter_table.dropped(rules[1]) if rules is not None else {}

    async def forward_chains(self) -> Mapping[ForwardKey, ForwardChain]:
        """Others' base chains at the forward hook, and whether our rules are in them. Raises KernelError."""
        try:
            request, kind = forward_rules.chains_request(), nft.NEWCHAIN
            found = await dump(request, kind, forward_rules.decode_chain, NETLINK_NETFILTER, absent=ABSENT)
            return {chain.key: replace(chain, opened=bool(await self._our_rules(chain))) for chain in found}
        except Unsupported:
            return {}

    async def _our_rules(self, chain: ForwardChain) -> list[bytes]:
        request = forward_rules.rules_request(chain)
        decode = forward_rules.decode_our_rule
        return await dump(request, nft.NEWRULE, decode, NETLINK_NETFILTER, absent=ABSENT)

    async def put_forward_chain(self, chain: ForwardChain) -> None:
        """Put our rules first, or take them out. Raises KernelError."""
        ours = await self._our_rules(chain)
        if chain.opened:
            batch = [] if ours else forward_rules.opening(chain)
        else:
            batch = forward_rules.closing(chain, ours) if ours else []
        if not batch:
            return
        for code, words in self._transaction(batch).values():
            if code not in ABSENT:
                text = " ".join(chain.key)
                raise KernelError(f"letting pods through the chain {text}: {reason(code, words)}")

    def _transaction(self, batch: list[bytes]) -> dict[int, tuple[int, str]]:
        return self._sockets[NETLINK_NETFILTER].transaction(batch)
