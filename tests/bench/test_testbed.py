"""What the bench asks the kernel is what the kernel holds."""

from __future__ import annotations

import json

import pytest

from bench.testbed import main_prefixes, spaces

ROUTES = 100


def test_as_many_prefixes_are_counted_as_routes_were_added() -> None:
    with spaces(1) as (space,):
        space.run("ip", "link", "set", "lo", "up")
        before = space.prefixes()
        lines = "\n".join(f"route add 10.9.{number}.0/24 dev lo" for number in range(ROUTES))
        space.run("ip", "-batch", "-", text=lines)
        assert len(json.loads(space.run("ip", "-j", "-4", "route", "show", "proto", "boot"))) == ROUTES
        assert space.prefixes() == before + ROUTES


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Main:\n\tPrefixes:       3\nLocal:\n\tPrefixes:       3\n", 3),
        ("Local:\n\tPrefixes:       7\nMain:\n\tPrefixes:       2\n", 2),
        ("Local:\n\tPrefixes:       7\n", 0),
        ("", 0),
    ],
)
def test_only_the_main_trie_counts(text: str, count: int) -> None:
    assert main_prefixes(text) == count
