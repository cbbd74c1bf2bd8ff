"""`tortie routes` and `tortie plan` in a lab: reasons, conflicts, and a kernel that is as desired."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from tests.scenes.lab.lab_nodes import ip_on, tortie_on
from tests.scenes.lab.labs import MakeLab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("reasons", Mode.NONE, nodes=2, pods=2)


def routes(node: LabNode, *words: str) -> dict[str, dict[str, Any]]:
    return {row["route"]: row for row in json.loads(tortie_on(node, "routes", *words, "-o", "json"))}


def test_every_route_of_the_kernel_is_listed_with_its_reason(lab: Lab) -> None:
    node, other = lab.plan.nodes
    found = routes(node)
    printed = {line.strip().split(" src ")[0] for line in ip_on(node, "-4 route").splitlines()}
    listed = {text for text, row in found.items() if row["kind"] not in ("kernel", "foreign")}
    assert {text for text in listed if ":" not in text} <= printed
    kinds = {row["kind"]: row["why"] for row in found.values()}
    assert kinds["pod"] == "pod p1"
    assert f"learned from {other.name} ({other.interface.ip}), block of {other.name}" == kinds["bgp"]
    assert "blackhole" in kinds
    assert all(row["agrees"] for row in found.values())
    assert "all as desired" in tortie_on(node, "routes")
    assert tortie_on(node, "plan").strip() == "nothing to change: the kernel is as desired"


def test_a_foreign_route_in_our_place_is_shown_as_a_conflict_and_in_the_plan(lab: Lab) -> None:
    node = lab.plan.nodes[0]
    (block,) = (row["destination"] for row in routes(node).values() if row["kind"] == "bgp")
    ip_on(node, f"route replace {block} dev lo proto static")

    def shown() -> bool:
        rows = routes(node, block, "--foreign").values()
        return any(row["state"].startswith("conflict: ") for row in rows)

    lab_processes.wait_for("the conflict", shown, 20)
    assert f"! route {block} via" in tortie_on(node, "plan")
    assert "1 not as desired" in tortie_on(node, "routes")
    ip_on(node, f"route del {block} dev lo proto static")
    lab_processes.wait_for("our route again", lambda: all(row["agrees"] for row in routes(node).values()), 20)
