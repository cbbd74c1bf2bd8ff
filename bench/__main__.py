"""`python -m bench`: runs the measures, prints one table, writes the figures and the machine's description as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from agent.cli.commands.lab import ProgressLine
from agent.tables import ruled
from bench.feeds import FEEDS, small
from bench.figures import HEADINGS, Measure, against_baseline, as_json, markdown, rows
from bench.machine import describe
from bench.measures import addresses, blocks, cni, feed, large_cluster, many_nodes, moves, rib, traffic
from bench.speakers import RIB_ONLY, SPEAKERS, available

ROUNDS, SHORT_ROUNDS = 5, 1
BASELINE = Path(__file__).with_name("baseline.json")
NEW_BLOCKS = 15
"""A round, in a lab of its own."""
SHORT_SHARE = 50
"""The short variant keeps the harness alive; its feeds are that much smaller and its figures mean nothing."""

Run = Callable[[argparse.Namespace, Callable[[str], None]], list[Measure]]


def _names(_: argparse.Namespace) -> list[str]:
    return [name for name in SPEAKERS if available(name)]


def _feed(chosen: argparse.Namespace, progress: Callable[[str], None]) -> list[Measure]:
    feeds = [small(one, SHORT_SHARE) if chosen.short else one for one in FEEDS.values()]
    return feed.measure(feeds, chosen.rounds, _names(chosen), progress)


def _rib(chosen: argparse.Namespace, progress: Callable[[str], None]) -> list[Measure]:
    progress("(b) memory of a RIB")
    return rib.measure(chosen.rounds, 20_000 if chosen.short else 1_000_000)


def _moves(chosen: argparse.Namespace, progress: Callable[[str], None]) -> list[Measure]:
    names = [name for name in _names(chosen) if name not in RIB_ONLY]
    return moves.measure(chosen.rounds, names, progress)


def _cni(chosen: argparse.Namespace, progress: Callable[[str], None]) -> list[Measure]:
    if chosen.short:
        return cni.measure(chosen.rounds, progress, calls=3, many=4)
    return cni.measure(chosen.rounds, progress)


def _blocks(chosen: argparse.Namespace, progress: Callable[[str], None]) -> list[Measure]:
    return blocks.measure(3 if chosen.short else NEW_BLOCKS, chosen.rounds, progress)


def _traffic(chosen: argparse.Namespace, progress: Callable[[str], None]) -> list[Measure]:
    return traffic.measure(chosen.rounds, ("-n", "20M") if chosen.short else ("-t", "3"), progress)


def _addresses(chosen: argparse.Namespace, progress: Callable[[str], None]) -> list[Measure]:
    return addresses.measure(chosen.rounds, progress)


def _nodes(chosen: argparse.Namespace, progress: Callable[[str], None]) -> list[Measure]:
    found = many_nodes.measure(3 if chosen.short else 100, 2.0 if chosen.short else 30.0, progress)
    feed = small(FEEDS["cluster"], SHORT_SHARE) if chosen.short else FEEDS["cluster"]
    return found + large_cluster.measure(min(chosen.rounds, 3), feed, 1.0 if chosen.short else 30.0, progress)


MEASURES: dict[str, tuple[str, Run]] = {
    "feed": ("(a) BGP feed to the kernel, and back", _feed),
    "rib": ("(b) memory per million prefixes", _rib),
    "moves": ("(c) a node moves, (d) restart with 20,000 routes", _moves),
    "cni": ("(e) CNI calls beside ptp with host-local", _cni),
    "blocks": ("(f) new block to the other nodes' kernels", _blocks),
    "traffic": ("(g) pod-to-pod traffic beside routes made by hand", _traffic),
    "addresses": ("(h) IPAM allocations a second", _addresses),
    "nodes": ("(i) a hundred nodes on one machine, and one among 5,000", _nodes),
}


def parser() -> argparse.ArgumentParser:
    """The flags."""
    lines = "\n".join(f"  {name:10} {title}" for name, (title, _) in MEASURES.items())
    found = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures Tortie beside its peers, in turn, on the same work and the same kernel.",
        epilog=f"measures:\n{lines}\n\nexample: python -m bench --only feed rib --rounds 5 --json bench.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), metavar="MEASURE")
    found.add_argument("--rounds", type=int, default=ROUNDS, help=f"paired rounds (default {ROUNDS})")
    found.add_argument("--short", action="store_true", help="small work, one round: only to see that it runs")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    found.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        default=BASELINE,
        help="compare the ratios with an earlier run's (default: the one kept with the source)",
    )
    return found


def show(measures: list[Measure]) -> None:
    """The table: drawn on a terminal, Markdown elsewhere."""
    print(ruled(HEADINGS, rows(measures)) if sys.stdout.isatty() else markdown(measures))
    for measure in measures:
        for note in measure.notes:
            print(f"{measure.key}: {note}")


def main() -> None:
    """Run what was asked for."""
    chosen = parser().parse_args()
    if os.geteuid() != 0:
        sys.exit("python -m bench makes network namespaces: run it as root, for example with sudo make bench")
    if chosen.short:
        chosen.rounds = SHORT_ROUNDS
    machine, began = describe(), time.monotonic()
    measures: list[Measure] = []
    progress = ProgressLine()
    for name in chosen.only:
        measures += MEASURES[name][1](chosen, progress)
    progress.done()
    show(measures)
    print()
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {time.monotonic() - began:.0f} s; "
        + ", ".join(f"{key} {value}" for key, value in machine.items())
    )
    if chosen.baseline.exists() and not chosen.short:
        earlier = json.loads(chosen.baseline.read_text())
        print(
            f"beside the run of {earlier.get('date', 'another day')} on {earlier['machine'].get('processor')}:"
        )
        for line in against_baseline(measures, earlier):
            print(line)
    if chosen.json is not None:
        chosen.json.write_text(
            json.dumps(
                {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine, "measures": as_json(measures)},
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
