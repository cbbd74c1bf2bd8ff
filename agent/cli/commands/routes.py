"""`tortie routes`: the node's routes with their reasons; `tortie plan`: what the next pass would change."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

ROUTES_EXAMPLES = """\
examples:
  tortie routes
  tortie routes 192.168.31.64/26
  tortie routes 192.168.31.70
  tortie routes --foreign
  tortie routes -o json

All routes of the main tables, as the kernel holds them; with PREFIX those inside it and around it. The last column
says where wish and kernel do not agree. --foreign shows others' routes, those in our place first.
"""
PLAN_EXAMPLES = """\
examples:
  tortie plan
  tortie plan -o json

The kernel is read anew and compared with what the agent wishes; nothing is written. A running agent repairs within
milliseconds, so what stays listed is what it cannot or may not do.
"""
MOST_PAGES = 1000


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    raw = argparse.RawDescriptionHelpFormatter
    routes = subparsers.add_parser(
        "routes",
        help="this node's routes, and why each is there",
        epilog=ROUTES_EXAMPLES,
        formatter_class=raw,
    )
    routes.add_argument("prefix", nargs="?", metavar="PREFIX", help="a network, or an address")
    routes.add_argument("--foreign", action="store_true", help="others' routes, conflicts first")
    routes.set_defaults(run=run_routes)
    plan = subparsers.add_parser(
        "plan",
        help="what the next pass would change in the kernel, and why",
        epilog=PLAN_EXAMPLES,
        formatter_class=raw,
    )
    plan.set_defaults(run=run_plan)
    for verb in (routes, plan):
        verb.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")


def run_routes(arguments: argparse.Namespace) -> None:
    """`tortie routes`."""
    from agent.tables import data

    found = sorted(_pages(arguments), key=_place)
    if arguments.output != "table":
        print(data(found, arguments.output))
    elif found:
        print(routes_table(found))
    else:
        print("no routes")


def _pages(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import json
    from ipaddress import ip_network

    from agent.cli.connection import asked
    from agent.cli.failure import CommandFailed

    if arguments.prefix:
        try:
            ip_network(arguments.prefix)
        except ValueError as error:
            raise CommandFailed(f"PREFIX: {error}") from error
    question = {"near": arguments.prefix or "", "foreign": arguments.foreign}
    for _ in range(MOST_PAGES):
        answer = asked(arguments, f"table {json.dumps(question)}")
        yield from answer["routes"]
        if not answer["last"]:
            return
        question["after"] = answer["last"]


def _place(row: dict[str, Any]) -> tuple[bool, int, int, int]:
    """What needs a look first, then by address."""
    from ipaddress import ip_network

    network = ip_network(row["destination"])
    return row["agrees"], network.version, int(network.network_address), network.prefixlen


def routes_table(rows: list[dict[str, Any]]) -> str:
    """For people."""
    from agent.tables import columns

    heads = ("DESTINATION", "VIA", "DEVICE", "PROTOCOL", "KIND", "WHY", "STATE")
    cells = [
        (
            row["destination"],
            row["via"] or "-",
            row["device"] or "-",
            row["protocol"],
            row["kind"],
            row["why"],
            row["state"],
        )
        for row in rows
    ]
    wrong = sum(not row["agrees"] for row in rows)
    close = f"{len(rows)} routes" + (f", {wrong} not as wished" if wrong else ", all as wished")
    return f"{columns(heads, cells)}\n\n{close}"


def run_plan(arguments: argparse.Namespace) -> None:
    """`tortie plan`."""
    from agent.cli.connection import asked
    from agent.tables import data

    answer = asked(arguments, "plan")
    print(plan_text(answer) if arguments.output == "table" else data(answer, arguments.output))


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
    return "\n".join([*lines, ", ".join(counts) or "nothing to change: the kernel is as wished"])
