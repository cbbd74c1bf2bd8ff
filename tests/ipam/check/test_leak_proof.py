"""Nothing is freed without proof: each part of it is needed."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from ipam.check.leak_proof import PAUSE_SECONDS, Observation, prove_leak
from ipam.model import HandleId, NodeName

FIRST = Observation(
    address=ip_address("10.0.0.1"),
    handle=HandleId("h1"),
    sequence=7,
    made_by=NodeName("n1"),
    boot_of_allocation="boot-a",
    seen_on=NodeName("n1"),
    boot_now="boot-a",
    namespace_exists=False,
    veth_exists=False,
    used_by=None,
    at=100.0,
)
SECOND = replace(FIRST, at=100.0 + PAUSE_SECONDS)


def test_two_looks_that_agree_are_proof_with_its_evidence() -> None:
    found = prove_leak(FIRST, SECOND)
    assert found == (
        "address 10.0.0.1 of h1: its network namespace and its veth are gone; no endpoint names it; "
        "seen twice, 60 s apart"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"namespace_exists": True},
        {"veth_exists": True},
        {"used_by": "endpoint default/p1"},
        {"made_by": NodeName("n2")},
        {"made_by": None},
        {"handle": None},
        {"sequence": None},
    ],
)
@pytest.mark.parametrize("when", ["first", "second", "both"])
def test_one_doubt_in_one_look_is_no_proof(change: dict[str, object], when: str) -> None:
    first = FIRST if when == "second" else replace(FIRST, **change)  # type: ignore[arg-type]
    second = SECOND if when == "first" else replace(SECOND, **change)  # type: ignore[arg-type]
    assert prove_leak(first, second) is None


@pytest.mark.parametrize(
    "change", [{"sequence": 8}, {"handle": HandleId("h2")}, {"at": 101.0}, {"boot_now": "boot-b"}]
)
def test_looks_at_different_things_or_too_soon_are_no_proof(change: dict[str, object]) -> None:
    assert prove_leak(FIRST, replace(SECOND, **change)) is None  # type: ignore[arg-type]


def test_a_boot_since_the_allocation_is_proof_even_if_a_veth_has_its_name_again() -> None:
    old = {"boot_of_allocation": "boot-0", "veth_exists": True}
    found = prove_leak(replace(FIRST, **old), replace(SECOND, **old))  # type: ignore[arg-type]
    assert found is not None
    assert "assigned in boot boot-0, now is boot boot-a" in found
    unrecorded = {"boot_of_allocation": None, "veth_exists": True}
    assert prove_leak(replace(FIRST, **unrecorded), replace(SECOND, **unrecorded)) is None  # type: ignore[arg-type]
