"""What `tortie bgp uplinks` prints."""

from __future__ import annotations

from typing import Any

from agent.cli.commands.bgp import uplinks_table

FOUND: dict[str, Any] = {
    "interface": "eth1",
    "as": "external",
    "router": "fe80::9%eth1",
    "found_by": ["neighbour table", "router advertisement"],
    "found_seconds": 12.4,
    "state": "Established",
    "why_not": "",
    "others": [],
    "overflow": False,
    "advertised_seconds": 3.0,
}
EMPTY: dict[str, Any] = {
    **dict.fromkeys(FOUND),
    "interface": "eth2",
    "found_by": [],
    "why_not": "no link: there is no carrier",
    "others": ["fe80::a%eth2"],
}


def test_each_uplink_is_a_row_with_what_was_found_and_why_not() -> None:
    rows = [" ".join(line.split()) for line in uplinks_table([FOUND, EMPTY]).splitlines()]
    assert rows == [
        "INTERFACE AS ROUTER FOUND BY FOUND STATE WHY NOT OTHERS",
        "eth1 external fe80::9%eth1 neighbour table, router advertisement 12 s ago Established - -",
        "eth2 - - - - - no link: there is no carrier fe80::a%eth2",
    ]


def test_without_any_it_is_said_where_they_are_configured() -> None:
    assert "[[bgp.uplink]]" in uplinks_table([])
