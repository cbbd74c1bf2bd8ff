"""`tortie bgp`: peers and paths, and what is done with one peer; `tortie drain`, `undrain`: with all of them.

Promises: answers come page by page, so that a table of any size costs little here and in the agent.
Does not know: how a path is chosen.
"""

from __future__ import annotations

import argparse
from typing import Any

from agent.cli.command import (
    CommandFailed,
    add_command,
    add_group,
    add_output,
    moment,
    network_named,
    print_answer,
)
from agent.cli.connection import ask_agent, ask_pages
from agent.tables import columns, data

DRAIN_EXAMPLES = """\
examples:
  tortie drain --text "new kernel, back at 14:00"
  tortie undrain

A drained node withdraws all it advertised and ends its sessions with the text (RFC 9003). It stays drained when the
agent or the machine restarts. Its own routes to other nodes stay.
"""
PEERS_EXAMPLES = """\
examples:
  tortie bgp peers
  tortie bgp peers node2
  tortie bgp peers 172.26.0.12 -o json
"""
ROUTES_EXAMPLES = """\
examples:
  tortie bgp routes
  tortie bgp routes 192.168.31.64/26
  tortie bgp routes 192.168.31.70
  tortie bgp routes --received node2
  tortie bgp routes -o yaml
  tortie bgp routes 192.168.31.64/26 --advertised node2 -o json

A star marks the best path, "=" one whose next hop is used beside it (bgp.maximum_paths). The last column says why it
is, or why not; what is refused on import is listed, too.
"""
REFRESH_EXAMPLES = """\
examples:
  tortie bgp refresh node2
  tortie bgp refresh 172.26.0.12 -o json

The peer is asked for all its paths again (RFC 2918), and is sent all of ours again. The session stays, and so does
every route that both still have.
"""
RESET_EXAMPLES = """\
examples:
  tortie bgp reset node2
  tortie bgp reset 172.26.0.12 --hard

The session ends (Cease, administrative reset) and begins anew at once. The routes outlive that on both sides, as in a
graceful restart; with --hard both forget them until they are announced again. Without a session the peer is called now.
"""
DISABLE_EXAMPLES = """\
examples:
  tortie bgp disable node2 --text "loops packets, until the line card is changed"
  tortie bgp enable node2

A disabled peer is told so with the text (RFC 9003) and has no session; its routes go on both sides. It stays disabled
when the agent or the machine restarts, and is a trouble (tortie node status) until it is enabled.
"""
UPLINKS_EXAMPLES = """\
examples:
  tortie bgp uplinks
  tortie bgp uplinks -o json

An uplink is a cable to a router that is found on the wire ([[bgp.uplink]] in agent.toml). FOUND BY says which signs
of a router there are; WHY NOT, why there is no session; OTHERS, who else looks like a router there.
"""
LEFT_SECONDS = 10.0
POLL_SECONDS = 0.05


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    verbs = add_group(subparsers, "bgp", "peers and routes of this node's BGP speaker")
    peers = add_command(verbs, "peers", "all peers, or one in full", run_bgp_peers, PEERS_EXAMPLES)
    peers.add_argument("name", nargs="?", metavar="NAME", help="a node, a BGPPeer or an address")
    add_output(peers)
    uplinks = add_command(verbs, "uplinks", "routers found on the wire", run_bgp_uplinks, UPLINKS_EXAMPLES)
    add_output(uplinks)
    routes = add_command(verbs, "routes", "paths and their reasons", run_bgp_routes, ROUTES_EXAMPLES)
    routes.add_argument("prefix", nargs="?", metavar="PREFIX", help="a network, or an address inside it")
    side = routes.add_mutually_exclusive_group()
    side.add_argument("--received", metavar="PEER", help="the paths it advertised, and what became of each")
    side.add_argument("--advertised", metavar="PEER", help="the paths it is sent, or why not")
    add_output(routes)
    _add_peer_verbs(verbs)
    drain = add_command(subparsers, "drain", "leave all BGP peers until undrain", run_drain, DRAIN_EXAMPLES)
    drain.add_argument("--once", action="store_true", help="until the agent starts again, as at a shutdown")
    drain.add_argument("--text", default="", help="what the peers' operators read, up to 255 bytes")
    add_command(subparsers, "undrain", "peer with everybody again", run_undrain, DRAIN_EXAMPLES)


def _add_peer_verbs(verbs: Any) -> None:
    """What is done with one peer."""
    what = "both sides say all paths again, in the session that there is"
    refresh = add_command(verbs, "refresh", what, run_peer_verb, REFRESH_EXAMPLES)
    reset = add_command(verbs, "reset", "begin a new session with a peer", run_peer_verb, RESET_EXAMPLES)
    reset.add_argument("--hard", action="store_true", help="both sides forget the paths first")
    disable = add_command(
        verbs, "disable", "no session with a peer until enable", run_peer_verb, DISABLE_EXAMPLES
    )
    disable.add_argument("--text", default="", help="what the peer's operators read, up to 255 bytes")
    enable = add_command(
        verbs, "enable", "a session with a disabled peer again", run_peer_verb, DISABLE_EXAMPLES
    )
    for parser in (refresh, reset, disable, enable):
        parser.add_argument("peer", metavar="PEER", help="a node, a BGPPeer or an address")
        add_output(parser)


def run_peer_verb(arguments: argparse.Namespace) -> None:
    """`tortie bgp refresh`, `reset`, `disable`, `enable`."""
    import json

    peer, verb = arguments.peer, arguments.verb
    questions = {
        "reset": {"peer": peer, "hard": getattr(arguments, "hard", False)},
        "disable": {"peer": peer, "text": getattr(arguments, "text", "")},
    }
    text = json.dumps(questions[verb]) if verb in questions else peer
    print_answer(
        ask_agent(arguments, f"peer-{verb} {text}"), arguments.output, lambda answer: str(answer["done"])
    )


def run_drain(arguments: argparse.Namespace) -> None:
    """`tortie drain`."""
    import time

    word = "leave" if arguments.once else "drain"
    ask_agent(arguments, f"{word} {' '.join(arguments.text.split())}")
    ends = "the next start of the agent" if arguments.once else "tortie undrain"
    deadline = time.monotonic() + LEFT_SECONDS
    while not (status := ask_agent(arguments, "status"))["has_left"]:
        if time.monotonic() > deadline:
            raise CommandFailed(f"{status['node']} is still leaving its peers; see: tortie node status")
        time.sleep(POLL_SECONDS)
    print(f"{status['node']} has left its peers; {ends} ends it")


def run_undrain(arguments: argparse.Namespace) -> None:
    """`tortie undrain`."""
    ask_agent(arguments, "undrain")
    print(f"{ask_agent(arguments, 'status')['node']} peers again")


# -- peers and paths    ------------------------------------------------------------------------------------------------


def run_bgp_peers(arguments: argparse.Namespace) -> None:
    """`tortie bgp peers`."""
    answer = ask_agent(arguments, f"peer {arguments.name}" if arguments.name else "peers")
    print_answer(answer, arguments.output, in_full if arguments.name else peers_table)


PEER_COLUMNS = {
    "PEER": "address",
    "NAME": "description",
    "AS": "asn",
    "TYPE": "type",
    "STATE": "state",
    "SINCE": "since",
    "BFD": "bfd",
    "RECEIVED": "received",
    "ADVERTISED": "announced",
    "LAST ERROR": "last_error",
}
"""Head -> key of the agent's answer."""


def peers_table(peers: list[dict[str, Any]]) -> str:
    """The table of all peers."""
    rows = [
        {
            **peer,
            "since": moment(peer["since"]),
            "asn": peer["asn"] or "external",
            "bfd": (peer.get("bfd") or {}).get("state", "-"),
        }
        for peer in peers
    ]
    # Where no peer has BFD there is no column of it.
    shown = {
        head: key
        for head, key in PEER_COLUMNS.items()
        if key != "bfd" or any(peer.get("bfd") for peer in peers)
    }
    return columns(tuple(shown), [[row[key] for key in shown.values()] for row in rows])


def run_bgp_uplinks(arguments: argparse.Namespace) -> None:
    """`tortie bgp uplinks`."""
    print_answer(ask_agent(arguments, "uplinks"), arguments.output, uplinks_table)


UPLINK_COLUMNS = ("INTERFACE", "AS", "ROUTER", "FOUND BY", "FOUND", "STATE", "WHY NOT", "OTHERS")


def uplinks_table(uplinks: list[dict[str, Any]]) -> str:
    """The table of all uplinks."""
    rows = [
        (
            one["interface"],
            one["as"] or "-",
            one["router"] or "-",
            ", ".join(one["found_by"]) or "-",
            f"{one['found_seconds']:.0f} s ago" if one["found_seconds"] is not None else "-",
            one["state"] or "-",
            one["why_not"] or "-",
            " ".join(one["others"]) or "-",
        )
        for one in uplinks
    ]
    if not rows:
        return "no uplink is configured: see [[bgp.uplink]] in docs/configuration.md"
    return columns(UPLINK_COLUMNS, rows)


def in_full(peer: dict[str, Any]) -> str:
    """Everything about one peer, in lines."""
    hold = peer["hold_seconds"]
    resource = f", BGPPeer {peer['resource']}" if peer["resource"] else ""
    since = f" since {moment(peer['since'])}" if peer["since"] else ""
    lines = [
        f"peer          {peer['address']} port {peer['port']}, {peer['description']}, AS {peer['asn'] or 'external'}",
        f"type          {peer['type']}{resource}",
        f"state         {peer['state']}{since}",
        f"router id     {peer['router_id'] or '-'}",
        f"hold time     {f'{hold} s' if hold else '-'}",
        f"options       {'; '.join(peer['options']) or '-'}",
        f"filters       {', '.join(peer['filters']) or '-'}",
        f"last error    {peer['last_error'] or '-'}",
    ]
    if peer.get("session_ended"):
        lines.append(f"ended         {peer['session_ended']}")
    if bfd := peer.get("bfd"):
        lines.append(f"bfd           {bfd_text(bfd)}")
    if peer["refused"]:
        lines.append(f"refused       {peer['refused']} connections from its address while its session lived")
    faults = {name: peer[name] for name in ("tolerated", "ignored", "failures") if peer.get(name)}
    if faults:
        lines.append(f"faults        {', '.join(f'{name} {count}' for name, count in faults.items())}")
    if limit := peer.get("exceeded") or peer.get("near_limit"):
        lines.append(f"limit         {limit}")
    if peer["restarting"]:
        lines.append("restart       its paths stay until it has advertised them again")
    for family, count in peer["counts"].items():
        long_lived = f", long-lived {count['long_lived_stale']}" if count.get("long_lived_stale") else ""
        lines.append(
            f"{family.lower():<13} received {count['received']} (refused {count['refused']}, "
            f"stale {count['stale']}{long_lived}), advertised {count['advertised']}"
        )
    return "\n".join([*lines, "", capabilities(peer["offered"], peer["received_offer"])])


def bfd_text(bfd: dict[str, Any]) -> str:
    """A BFD session in one line."""
    if "since" not in bfd:
        return f"{bfd['state']}, {bfd['error']}"
    where = "over several hops" if bfd["multihop"] else f"on {bfd['interface']}"
    parts = [f"{bfd['state']} since {moment(bfd['since'])} {where}"]
    if bfd["detection_ms"]:
        sent, received = f"{bfd['sent_every_ms']:g}", f"{bfd['received_every_ms']:g}"
        parts.append(
            f"sent every {sent} ms, received every {received} ms, detection {bfd['detection_ms']:g} ms"
        )
    if bfd["state"] != "Up":
        parts.append(f"{bfd['remote_state']} there")
    parts.append(f"failed {bfd['failures']} times")
    for key, who in (
        ("diagnostic", "last diagnostic"),
        ("remote_diagnostic", "the peer's"),
        ("error", "error"),
    ):
        if bfd[key]:
            parts.append(f"{who}: {bfd[key]}")
    return "; ".join(parts)


def capabilities(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> str:
    """The capabilities of both OPENs, side by side."""

    if ours is None or theirs is None:
        return "no session, so nothing is agreed"
    rows = [(name.replace("_", " "), *map(ability, (ours[name], theirs.get(name)))) for name in ours]
    return columns(("CAPABILITY", "OURS", "THEIRS"), rows)


FAMILIES = {1: "IPv4", 2: "IPv6"}
"""AFI (RFC 4760) -> the address family's name."""


def ability(value: Any) -> str:
    """A capability's value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {ability(inner)}" for name, inner in value.items())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "; ".join(map(ability, value))
    if isinstance(value, list):
        return " ".join(FAMILIES.get(one, str(one)) for one in value) or "-"
    return "-" if value in (None, "") else str(value)


def run_bgp_routes(arguments: argparse.Namespace) -> None:
    """`tortie bgp routes`: page after page, so that a table of any size costs little here and there."""
    question = {
        "which": "received" if arguments.received else "advertised" if arguments.advertised else "known",
        "peer": arguments.received or arguments.advertised or "",
        "prefix": network_named(arguments.prefix) if arguments.prefix else "",
    }
    found = 0
    for page in ask_pages(arguments, "paths", question, "paths"):
        print(page_text(page, arguments.output, first=found == 0), end="")
        found += len(page)
    if arguments.output == "json":
        print("\n]" if found else "[]")
    elif arguments.output == "yaml" and not found:
        print("[]")


def page_text(page: list[dict[str, Any]], output: str, *, first: bool) -> str:
    """One page; pages behind each other are one table or one list, which JSON wants closed."""
    import json

    if output == "json":
        texts = [json.dumps(row) for row in page]
        return ("[\n " if first else ",\n ") + ",\n ".join(texts) if texts else ""
    if output == "yaml":
        return data(page, "yaml") + "\n" if page else ""
    return paths_table(page, heads=first) + "\n"


WIDTHS = (2, 20, 16, 18, 10, 24)
"""Characters of each column but the last: fixed, because a page does not know the next one."""


def paths_table(rows: list[dict[str, Any]], *, heads: bool) -> str:
    """One page of paths."""
    lines = [line("", "PREFIX", "NEXT HOP", "PEER", "LOCALPREF", "AS PATH", "REASON")] if heads else []
    for row in rows:
        stale = "; stale while its peer restarts" if row["stale"] else ""
        resolved = f"; {row['resolved']}" if row.get("resolved") else ""  # an older agent says nothing of it
        tags = f"; {' '.join(row['communities'])}" if row["communities"] else ""
        lines.append(
            line(
                "*" if row["best"] else "=" if row.get("used") else "",
                row["prefix"],
                row["next_hop"] or "-",
                "ourselves" if row["peer"] is None else row["name"] or row["peer"],
                row["local_pref"] if row["local_pref"] is not None else "-",
                " ".join(map(str, row["as_path"])) or "-",
                f"{'out: ' if row.get('used') is False else ''}{row['reason']}{stale}{resolved}{tags}",
            )
        )
    return "\n".join(lines)


def line(*cells: object) -> str:
    """One row; a cell that is too wide moves the rest of its row."""
    texts = list(map(str, cells))
    return " ".join([*(text.ljust(width) for text, width in zip(texts, WIDTHS, strict=False)), texts[-1]])
