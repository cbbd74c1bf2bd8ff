"""A lab for people: its topology drawn, sessions, routes, the ping matrix.

Promises: pure; the text is plain enough for any terminal. Does not know: where facts come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.lab.icmp import Pair, PingCount
from agent.lab.lab_plan import LabPlan, Mode, gateway
from agent.lab.pods import Pod
from agent.tables import columns, ruled


def topology(plan: LabPlan, mode: Mode, pods: Sequence[Pod]) -> str:
    """The nodes, side by side below the fabric, with their pods."""
    etcd = f"etcd {gateway(plan.segments[0])}:2379"
    fabric = " ".join(f"br{number} {segment}" for number, segment in enumerate(plan.segments))
    head = f"lab {plan.name}, mode {mode.value}"
    boxes = [
        _box(node.name, str(node.interface.ip), [pod for pod in pods if pod.node == node.name])
        for node in plan.nodes
    ]
    lines = [head, "", f"   {etcd}", "   |"]
    per_row = 4
    for start in range(0, len(boxes), per_row):
        row = boxes[start : start + per_row]
        widths = [len(box[0]) for box in row]
        stems = "   ".join("|".center(width) for width in widths)
        rule = "=" * max(len(stems), len(fabric) + 8)
        lines += [f"   {f' fabric {fabric} '.center(len(rule), '=')}", f"   {stems}"]
        for index in range(max(len(box) for box in row)):
            cells = [box[index] if index < len(box) else " " * len(box[0]) for box in row]
            lines.append(f"   {'   '.join(cells).rstrip()}")
        lines.append("")
    return "\n".join(lines).rstrip()


def _box(name: str, address: str, pods: Sequence[Pod]) -> list[str]:
    inside = [name, address, *(f"{pod.name} {pod.address}" for pod in pods)]
    width = max(len(text) for text in inside)
    rule = "+" + "-" * (width + 2) + "+"
    body = [f"| {text.ljust(width)} |" for text in inside]
    return [rule, *body[:2], rule, *body[2:], *([rule] if pods else [])]


def sessions(status_by_node: Mapping[str, Mapping[str, Any] | None]) -> str:
    """A row per node: its peers, and whether all of them are up."""
    rows = []
    for name, status in status_by_node.items():
        if status is None:
            rows.append((name, "-", "no agent answers", "-", "-"))
            continue
        states = [(peer["description"], peer["state"]) for peer in status["peers"]]
        up = [peer for peer, state in states if state == "Established"]
        down = [f"{peer} {state}" for peer, state in states if state != "Established"]
        troubles = "; ".join([*down, *status["troubles"]]) or "-"
        learned = sum(peer["received"] for peer in status["peers"])
        rows.append((name, status["address"] or "-", ", ".join(up) or "-", learned, troubles))
    return ruled(("NODE", "ADDRESS", "ESTABLISHED WITH", "LEARNED", "TROUBLE"), rows)


def route_tables(lines_by_node: Mapping[str, Sequence[str]]) -> str:
    """The nodes' routes as `ip route` printed them, one node under the other."""
    parts = []
    for name, lines in lines_by_node.items():
        parts += ["", f"{name}# ip route", *lines]
    return "\n".join(parts)


def matrix(counts: Mapping[Pair, PingCount], pods: Sequence[Pod]) -> str:
    """From (row) to (column): the TTL of the reply, or how many of how many were lost."""
    rows = []
    for one in pods:
        cells = [f"{one.name} ({one.node})"]
        for other in pods:
            count = counts.get((one.name, other.name))
            cells.append("." if count is None else _cell(count))
        rows.append(cells)
    lost = sum(count.lost for count in counts.values())
    sent = sum(count.sent for count in counts.values())
    table = columns(("FROM \\ TO", *(pod.name for pod in pods)), rows)
    return f"{table}\n\n{sent} pings, {sent - lost} replies, {lost} lost"


def _cell(count: PingCount) -> str:
    return f"ttl={count.ttl}" if not count.lost else f"-{count.lost}/{count.sent}"
