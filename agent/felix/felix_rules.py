"""Filter rules that a Felix wrote, of nftables or of iptables-legacy, and whether they drop a new pod's packets.

Strategy. Felix sends what comes from or goes to `cali*` through dispatch chains that name every pod it knows and end
with a drop, "Unknown interface". A pod that came after it is in none. So the packet of such a pod is taken through the
rules as the kernel does: a rule that asks for nothing but an interface is decided, one that asks for more is passed
over, because a new pod's first packet may or may not meet it.
Promises: pure; a chain or rule is Calico's by its table, its name or the comment that Felix puts on each of its rules;
nothing else counts. Every walk has a bound. Does not know: how rules are read, who takes them away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from agent.dataplane.kernel.calico_names import WORKLOAD_PREFIX

CALICO_TABLE = "calico"
"""Of Felix's nftables mode, in any family: everything in it is Calico's."""
CHAIN_PREFIXES = ("cali-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-", "felix-")
"""Beginnings of chain names, today's and those of older versions, in tables that others use as well."""
COMMENT_PREFIX = "cali:"
"""The comment with a hash on each of Felix's rules."""
MOST_CHAINS_DEEP = 16
"""The kernel's own bound for jumps in nftables (NFT_JUMP_STACK_SIZE)."""
MOST_RULES_WALKED = 20_000


class Action(Enum):
    """What a rule does with a packet that meets it."""

    NONE = "continue"
    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"


@dataclass(frozen=True, slots=True)
class FilterRule:
    """One rule, as far as a new pod's packet is concerned."""

    action: Action
    target: str = ""
    """The chain that a jump or goto leads to."""
    incoming: str = ""
    """The interface it asks for; with `*` at the end any that begins so; empty: any."""
    outgoing: str = ""
    conditional: bool = False
    """Whether it asks for anything else."""
    comment: str = ""

    def __str__(self) -> str:
        """Nearly as nft(8) writes it."""
        words = [f'iifname "{self.incoming}"' if self.incoming else ""]
        words.append(f'oifname "{self.outgoing}"' if self.outgoing else "")
        words += ["…" if self.conditional else "", self.action.value, self.target]
        words.append(f'comment "{self.comment}"' if self.comment else "")
        return " ".join(filter(None, words))


@dataclass(frozen=True, slots=True)
class FilterChain:
    """A chain; one with a hook is asked by the kernel."""

    name: str
    rules: tuple[FilterRule, ...] = ()
    hook: str = ""
    drops: bool = False
    """Its policy, where it has a hook."""


@dataclass(frozen=True, slots=True)
class FilterTable:
    """A table with Calico's rules in it; chains that no packet of a new pod can reach may be absent."""

    origin: str
    """`nftables` or `iptables-legacy`."""
    family: str
    name: str
    chains: Mapping[str, FilterChain] = field(default_factory=dict)
    calicos_chains: int = 0
    """How many of all its chains are Calico's."""

    def __str__(self) -> str:
        return f"{self.origin} table {self.family} {self.name}"

    @property
    def is_calicos(self) -> bool:
        """Whether all of it is."""
        return self.origin == "nftables" and self.name == CALICO_TABLE

    @property
    def calicos_rules(self) -> int:
        """How many rules in others' chains are Calico's."""
        return sum(
            is_calicos_rule(rule)
            for chain in self.chains.values()
            if not self.owns(chain.name)
            for rule in chain.rules
        )

    def owns(self, chain: str) -> bool:
        """Whether a chain of this name is Calico's here."""
        return self.is_calicos or is_calicos_chain(chain)


@dataclass(frozen=True, slots=True)
class Dropped:
    """Where a new pod's packets end."""

    table: FilterTable
    path: tuple[str, ...]
    """Chains, from the kernel's hook on."""
    rule: FilterRule | None
    """None: the chain's policy."""
    outgoing: bool
    """Those for the pod; otherwise those from it."""

    def __str__(self) -> str:
        """The evidence: the rule and the way to it."""
        *way, last = self.path
        by = f", reached from {', '.join(way)}" if way else ""
        rule = f"the rule `{self.rule}`" if self.rule is not None else "the policy"
        whose = "for" if self.outgoing else "from"
        return f"{rule} of chain {last} in {self.table}{by}, drops packets {whose} a pod that Calico did not know"


@dataclass(frozen=True, slots=True)
class FilterRemains:
    """The tables with rules of Calico's, and what of that a new pod would not survive."""

    tables: tuple[FilterTable, ...] = ()
    unread: tuple[str, ...] = ()
    """What could not be read, and why."""

    @property
    def dropped(self) -> Dropped | None:
        """The first place where a new pod's packets are dropped."""
        return next(filter(None, map(dropped_in, self.tables)), None)


def is_calicos_chain(name: str) -> bool:
    """Whether a chain in a table of others is Calico's, by its name."""
    return name.startswith(CHAIN_PREFIXES)


def is_calicos_rule(rule: FilterRule) -> bool:
    """Whether a rule in a chain of others is Calico's."""
    return rule.comment.startswith(COMMENT_PREFIX) or is_calicos_chain(rule.target)


def may_meet_new_pod(rule: FilterRule) -> bool:
    """Whether a rule is for a new pod's packets by its interface alone, in one direction or the other."""
    return _meets(rule, outgoing=False) or _meets(rule, outgoing=True)


def _meets(rule: FilterRule, *, outgoing: bool) -> bool:
    near, far = (rule.outgoing, rule.incoming) if outgoing else (rule.incoming, rule.outgoing)
    return not rule.conditional and not far and _is_new_pods(near)


def _is_new_pods(pattern: str) -> bool:
    """Whether an interface that a rule asks for may be that of a pod which no rule names."""
    if not pattern:
        return True
    begin = pattern.removesuffix("*")
    return begin != pattern and (begin.startswith(WORKLOAD_PREFIX) or WORKLOAD_PREFIX.startswith(begin))


def _is_for_some(rule: FilterRule) -> bool:
    """Whether the interface asked for is that of some new pods only: `cali1*`."""
    return len((rule.incoming or rule.outgoing).removesuffix("*")) > len(WORKLOAD_PREFIX)


DIRECTIONS = {
    "prerouting": (False,),
    "input": (False,),
    "forward": (False, True),
    "output": (True,),
    "postrouting": (True,),
}
"""Hook -> whether packets for the pod pass there (True), and those from it (False)."""


def dropped_in(table: FilterTable) -> Dropped | None:
    """Where Calico's rules in this table drop a new pod's packets, on their shortest way."""
    for chain in table.chains.values():
        for outgoing in DIRECTIONS.get(chain.hook, ()):
            walk = _Walk(table, outgoing)
            end = walk.through(chain.name, ())
            if isinstance(end, Dropped):
                return end
            if end is None and chain.drops and table.is_calicos:
                return Dropped(table, (chain.name,), None, outgoing)
    return None


@dataclass(slots=True)
class _Walk:
    """One packet's way through a table."""

    table: FilterTable
    outgoing: bool
    walked: int = 0

    def through(self, name: str, before: tuple[str, ...]) -> Dropped | Action | None:
        """Dropped by Calico; decided otherwise; or None, come back from the chain."""
        path = (*before, name)
        if len(path) > MOST_CHAINS_DEEP:
            return None
        for rule in self._met(name):
            if rule.action in (Action.DROP, Action.REJECT):
                calicos = self.table.owns(name) or is_calicos_rule(rule)
                if calicos:
                    return Dropped(self.table, path, rule, self.outgoing)
                if not _is_for_some(rule):
                    return rule.action
                continue
            end = self.through(rule.target, path) if rule.target else None
            if isinstance(end, Dropped):
                return end
            if _is_for_some(rule):
                continue  # other new pods go on to the next rule
            if rule.action is Action.ACCEPT:
                return rule.action
            if end is not None or rule.action in (Action.RETURN, Action.GOTO):
                return end
        return None

    def _met(self, name: str) -> Iterator[FilterRule]:
        chain = self.table.chains.get(name)
        for rule in chain.rules if chain is not None else ():
            self.walked += 1
            if self.walked > MOST_RULES_WALKED:
                return
            if _meets(rule, outgoing=self.outgoing):
                yield rule
