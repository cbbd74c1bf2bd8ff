"""Whether rules drop a new pod's packets, as a table."""

from __future__ import annotations

import pytest

from agent.felix.felix_rules import (
    Action,
    FilterChain,
    FilterRule,
    FilterTable,
    dropped_in,
    is_calicos_chain,
)

DROP = FilterRule(Action.DROP, comment="cali:x; Unknown interface")
JUMP = FilterRule(Action.JUMP, "cali-FORWARD")


def table(base: list[FilterRule], own: list[FilterRule], hook: str = "forward") -> FilterTable:
    chains = (
        FilterChain("FORWARD", tuple(base), hook),
        FilterChain("cali-FORWARD", tuple(own)),
        FilterChain("cali-dispatch", (DROP,)),
        FilterChain("others", (FilterRule(Action.DROP),)),
    )
    return FilterTable("nftables", "ip", "filter", {chain.name: chain for chain in chains})


DISPATCH = FilterRule(Action.GOTO, "cali-dispatch", incoming="cali*")
CASES = {
    "a drop of everything": (table([JUMP], [DROP]), True),
    "a drop by way of two chains": (table([JUMP], [DISPATCH]), True),
    "what goes to pods": (table([JUMP], [FilterRule(Action.DROP, outgoing="cali*")]), True),
    "a rejection": (table([JUMP], [FilterRule(Action.REJECT, incoming="cali*")]), True),
    "every interface": (table([JUMP], [FilterRule(Action.DROP, incoming="*")]), True),
    "a part of the pods": (table([JUMP], [FilterRule(Action.DROP, incoming="cali4*")]), True),
    "accepted for some pods only": (
        table(
            [JUMP], [FilterRule(Action.ACCEPT, incoming="cali1*"), FilterRule(Action.DROP, incoming="cali*")]
        ),
        True,
    ),
    "back for some pods only": (
        table(
            [JUMP], [FilterRule(Action.RETURN, outgoing="cali1*"), FilterRule(Action.DROP, outgoing="cali*")]
        ),
        True,
    ),
    "a known pod alone": (table([JUMP], [FilterRule(Action.DROP, incoming="cali123")]), False),
    "another interface": (table([JUMP], [FilterRule(Action.DROP, incoming="eth*")]), False),
    "a condition": (table([JUMP], [FilterRule(Action.DROP, conditional=True)]), False),
    "a jump under a condition": (
        table([FilterRule(Action.JUMP, "cali-FORWARD", conditional=True)], [DROP]),
        False,
    ),
    "accepted before": (table([FilterRule(Action.ACCEPT, incoming="cali*"), JUMP], [DISPATCH]), False),
    "accepted one way only": (table([FilterRule(Action.ACCEPT, incoming="cali*"), JUMP], [DROP]), True),
    "come back before": (table([JUMP], [FilterRule(Action.RETURN), DROP]), False),
    "no jump": (table([], [DROP]), False),
    "a drop of others": (table([FilterRule(Action.JUMP, "others")], [DROP]), False),
    "a drop of Calico's in a chain of others": (table([DROP], []), True),
    "no hook": (table([JUMP], [DROP], hook=""), False),
    "a chain that is not there": (table([FilterRule(Action.JUMP, "cali-gone")], []), False),
    "a circle": (table([JUMP], [FilterRule(Action.JUMP, "cali-FORWARD")]), False),
    "to the host": (table([JUMP], [DISPATCH], hook="input"), True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_new_pods_packet_is_dropped_or_not(case: str) -> None:
    given_table, drops = CASES[case]
    assert (dropped_in(given_table) is not None) is drops


def test_the_policy_of_calicos_own_table_counts() -> None:
    chain = FilterChain("filter-FORWARD", (), "forward", drops=True)
    own = FilterTable("nftables", "inet", "calico", {"filter-FORWARD": chain})
    assert "the policy of chain filter-FORWARD in nftables table inet calico" in str(dropped_in(own))
    assert dropped_in(FilterTable("nftables", "inet", "filter", {"filter-FORWARD": chain})) is None


@pytest.mark.parametrize(
    ("name", "calicos"),
    [
        ("cali-FORWARD", True),
        ("califw-cali1", True),
        ("felix-FORWARD", True),
        ("calico-dhcp", False),
        ("FORWARD", False),
        ("tortie", False),
    ],
)
def test_a_chain_is_calicos_by_its_name(name: str, calicos: bool) -> None:
    assert is_calicos_chain(name) is calicos
