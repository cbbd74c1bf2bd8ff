"""`tortie routes`: the node's routes with their reasons; `tortie plan`: what the next pass would change.

Promises: changes nothing; what does not agree with the desired state comes first.
Does not know: how the agent came to what it says.
"""

from __future__ import annotations

import argparse
from typing import Any

from agent.cli.command import add_command, add_output, network_named, print_answer
from agent.cli.connection import ask_agent, ask_pages
from agent.tables import columns

ROUTES_EXAMPLES = """\
examples:
  tortie routes
  tortie routes 192.168.31.64/26
  tortie routes 192.168.31.70
  tortie routes --foreign
  tortie routes -o json

All routes of the main tables, as the kernel holds them now; with PREFIX those inside it and around it. The last column
says where desired state and kernel do not agree. --foreign shows others' routes, those in our place first.
"""
PLAN_EXAMPLES = """\
examples:
  tortie plan
  tortie plan -o json

The kernel is read anew and compared with the desired state; nothing is written. A running agent repairs within
milliseconds, so what stays listed is what it cannot or may not do.
"""


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    routes = add_command(
        subparsers, "routes", "this node's routes, and why each is there", run_routes, ROUTES_EXAMPLES
    )
    routes.add_argument("prefix", nargs="?", metavar="PREFIX", help="a network, or an address")
    routes.add_argument("--foreign", action="store_true", help="others' routes, conflicts first")
    add_output(routes)
    plan = add_command(
        subparsers, "plan", "what the next pass would change in the kernel, and why", run_plan, PLAN_EXAMPLES
    )
    add_output(plan)


def run_routes(arguments: argparse.Namespace) -> None:
    """`tortie routes`."""

    near = network_named(arguments.prefix) if arguments.prefix else ""
    question = {"near": near, "foreign": arguments.foreign}
    rows = [row for page in ask_pages(arguments, "table", question, "routes") for row in page]
    print_answer(sorted(rows, key=_order), arguments.output, routes_table)


def _order(row: dict[str, Any]) -> tuple[bool, int, int, int]:
    """Sort key of a row: what does not agree with the desired state first, then by address."""
    from ipaddress import ip_network

    network = ip_network(row["destination"])
    return row["agrees"], network.version, int(network.network_address), network.prefixlen


def routes_table(rows: list[dict[str, Any]]) -> str:
    """The routes for people, and how many of them are not as desired."""
    if not rows:
        return "no routes"
    shown = ("destination", "via", "device", "protocol", "kind", "why", "state")
    cells = [tuple(row[name] or "-" for name in shown) for row in rows]
    wrong = sum(not row["agrees"] for row in rows)
    close = f"{len(rows)} routes" + (f", {wrong} not as desired" if wrong else ", all as desired")
    return f"{columns(tuple(map(str.upper, shown)), cells)}\n\n{close}"


def run_plan(arguments: argparse.Namespace) -> None:
    """`tortie plan`."""

    print_answer(ask_agent(arguments, "plan"), arguments.output, plan_text)


SIGNS = {"create": "+", "replace": "~", "delete": "-", "wait": "?", "conflict": "!"}


def plan_text(answer: dict[str, Any]) -> str:
    """For people: a sign, what will be, what is, and why."""
    lines = [f"note: {text}" for text in answer["reserves"]]
    for step in answer["steps"]:
        lines.append(f"{SIGNS[step['verb']]} {step['kind']} {step['what'] or step['was']}")
        if step["what"] and step["was"]:
            lines.append(f"    now: {step['was']}")
        lines.append(f"    why: {step['why']}")
    if answer["more"]:
        lines.append(f"and {answer['more']} more")
    counts = [
        f"{number} to {word}"
        for word in ("create", "replace", "delete", "wait")
        if (number := sum(step["verb"] == word for step in answer["steps"]))
    ]
    conflicts = sum(step["verb"] == "conflict" for step in answer["steps"])
    counts += [f"{conflicts} in conflict with others' routes"] if conflicts else []
    return "\n".join([*lines, ", ".join(counts) or "nothing to change: the kernel is as desired"])
