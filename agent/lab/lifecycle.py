"""A lab's life: up, pods, pings, mode, down.

Promises: a lab that was killed at any point is removed by the next `up` or `down` of its name, because every part is
found by the lab's own prefix. Nothing outside the lab's namespaces and its directory is touched.
Does not know: how things are shown.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from itertools import permutations
from pathlib import Path
from typing import Any

from agent.datastore.resources.documents import InvalidDocument, read
from agent.lab import fabric, icmp, lab_processes
from agent.lab.forks import Fork, Program
from agent.lab.lab_plan import (
    MOST_NODES,
    POOL6,
    ROOT,
    SUBNETS6,
    LabError,
    LabPlan,
    Mode,
    etcd_endpoint,
    gateway,
    gateway6,
    plan,
    with_mode,
)
from agent.lab.pods import pod_named, pods
from agent.netlink.namespaces import entered

SEED_POOL = Path(__file__).parent / "pool.json"
"""The pool of the article this project started from: 192.168.0.0/16, IPIP always, /26 blocks."""
REPLY_SECONDS = 1.0
TORTIE_SECONDS = 60.0
MANY_NODES = 24
"""From so many on the kernel cannot hold all their neighbour entries by itself (gc_thresh3)."""
ROUND_SECONDS = 0.2
"""Between two rounds of pings, as `ping -i 0.2`."""

ReportProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that is up, or was."""

    plan: LabPlan
    mode: Mode


def up(
    name: str,
    nodes: int,
    mode: Mode,
    progress: ReportProgress,
    pool_file: Path | None = None,
    *,
    dual_stack: bool = False,
    loaded: Program | None = None,
) -> Lab:
    """Bring a lab up and wait until all its agents are in session. Raises LabError; then nothing is left of it.

    With a process that has loaded the program already the lab's own is a fork of that.
    """
    require_root()
    lab = Lab(plan(name, nodes, mode, dual_stack=dual_stack), mode)
    document = pool_document(pool_file, mode)
    down(name)
    try:
        record = {"nodes": nodes, "mode": mode.value, "dual_stack": dual_stack}
        lab_processes.write_json(lab.plan.directory / "lab.json", record)
        fabric.make_namespace(lab.plan.fabric)
        lab_processes.program(name).start(loaded)  # it loads while the rest is made
        _build(lab.plan, progress)
        progress("starting etcd")
        lab_processes.start_etcd(lab.plan)
        progress("applying the pool")
        apply(lab.plan, document)
        if dual_stack:
            apply(lab.plan, with_mode(POOL6, mode, ipip=False))
        progress("starting the agents")
        lab_processes.start_agents(lab.plan.nodes)
        progress("waiting for the BGP sessions")
        lab_processes.wait_for_agents(
            lab.plan, lambda count: progress(f"{count} of {nodes} agents in session with all others")
        )
    except BaseException:
        copy_logs(lab.plan)
        down(name)
        raise
    return lab


def require_root() -> None:
    """Raises LabError unless this process may make namespaces."""
    if os.geteuid() != 0:
        raise LabError("a lab makes network namespaces: run it as root, for example with sudo")


def pool_document(pool_file: Path | None, mode: Mode) -> dict[str, Any]:
    """The pool of the lab in its mode. Raises LabError when this kernel cannot do the mode or the file is wrong."""
    path = pool_file or SEED_POOL
    try:
        text = path.read_text()
        read(text, str(path))
        document: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as error:
        raise LabError(f"{path}: {error}") from error
    except InvalidDocument as error:
        raise LabError(str(error)) from error
    if mode is Mode.IPIP:
        _require_ipip()
    ipip = mode is Mode.IPIP or (mode is Mode.CROSS_SUBNET and fabric.has_ipip())
    return with_mode(document, mode, ipip=ipip)


def _build(made: LabPlan, progress: ReportProgress) -> None:
    progress("making the fabric")
    for number, segment in enumerate(made.segments):
        addresses = (
            IPv4Interface((int(gateway(segment)), segment.prefixlen)),
            IPv6Interface((int(gateway6(number)), SUBNETS6[number].prefixlen)),
        )
        fabric.bridge(made.fabric, f"br{number}", addresses)
    with entered(fabric.NAMESPACES / made.fabric):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    for node in made.nodes:
        progress(f"making {node.name}")
        fabric.make_namespace(node.namespace)
        gateways = str(gateway(made.segments[node.segment])), str(gateway6(node.segment))
        addresses = node.interface, node.interface6
        bridge = f"br{node.segment}"
        fabric.cable(made.fabric, bridge, node.name, node.namespace, addresses, gateways)
    if len(made.nodes) >= MANY_NODES:
        progress("giving the nodes each other's addresses")
        for number in range(len(made.segments)):
            fabric.add_permanent_neighbours(
                {node.namespace: node.interface.ip for node in made.nodes if node.segment == number}
            )


def down(name: str) -> int:
    """Remove every trace of a lab of this name; how many namespaces it had. Raises LabError for a wrong name."""
    require_root()
    made = plan(name, 1, Mode.NONE)
    found = fabric.namespaces(made.prefix)
    for namespace in found:
        fabric.end_processes(namespace)
    lab_processes.wait_for(
        "the end of the lab", lambda: not any(map(fabric.processes_in, found)), lab_processes.END_SECONDS
    )
    for namespace in found:
        fabric.remove_namespace(namespace)
    shutil.rmtree(made.directory, ignore_errors=True)
    return len(found)


def copy_logs(made: LabPlan) -> None:
    """Copy the logs of a lab that failed to come up to where its removal does not reach."""
    copies = ROOT / f"{made.name}-failed"
    shutil.rmtree(copies, ignore_errors=True)
    for log in made.directory.glob("**/*.log"):
        copies.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, copies / f"{log.parent.name}-{log.name}")


def lab_exists(name: str) -> bool:
    """Whether a lab of this name is up, or was not removed. Raises LabError for a wrong name."""
    return (plan(name, 1, Mode.NONE).directory / "lab.json").exists()


def find(name: str) -> Lab:
    """The lab of this name. Raises LabError when there is none."""
    require_root()
    made = plan(name, 1, Mode.NONE)
    try:
        record = json.loads((made.directory / "lab.json").read_text())
    except FileNotFoundError:
        hint = " --name " + name if name != "lab" else ""
        raise LabError(f"there is no lab {name}; start one with: tortie lab up{hint}") from None
    mode = Mode(record["mode"])
    dual_stack = bool(record.get("dual_stack"))
    return Lab(plan(name, min(int(record["nodes"]), MOST_NODES), mode, dual_stack=dual_stack), mode)


def _tortie(made: LabPlan, words: list[str], document: Any = None) -> str:
    """What `tortie` prints in the lab's fabric, with `document` as its input, in JSON. Raises LabError."""
    environment = {**os.environ, "TORTIE_ETCD_ENDPOINTS": etcd_endpoint()}
    space = str(fabric.NAMESPACES / made.fabric)
    fork = Fork("agent.cli.main", words, environment, space, os.getcwd())
    done = lab_processes.program(made.name).run(fork, json.dumps(document), TORTIE_SECONDS)
    if done.returncode != 0:
        raise LabError(done.stderr.strip())
    return done.stdout


def apply(made: LabPlan, document: dict[str, Any]) -> str:
    """Write resources into the lab's datastore with `tortie apply`; what that printed. Raises LabError."""
    return _tortie(made, ["apply", "-f", "-"], document)


def change_mode(lab: Lab, mode: Mode) -> Lab:
    """Change the mode of every pool of a running lab, as one does with `tortie apply`. Raises LabError."""
    pools = json.loads(_tortie(lab.plan, ["get", "ippools", "-o", "json"]))
    if mode is Mode.IPIP:
        _require_ipip()
    apply(lab.plan, with_mode(pools, mode, ipip=mode is Mode.IPIP))
    return Lab(lab.plan, mode)


def _require_ipip() -> None:
    if not fabric.has_ipip():
        raise LabError(
            "mode ipip: this kernel has no ipip (a link of that kind is refused); use vxlan or none"
        )


def ping(
    lab: Lab, names: Iterable[str] = (), rounds: int = 1, until: Callable[[], bool] = lambda: False
) -> icmp.Pinger:
    """Every pod pings every other, `rounds` times or until `until` says so; the counts per pair. Raises LabError."""
    chosen = [pod_named(lab.plan, name) for name in names] or pods(lab.plan)
    if len(chosen) < 2:
        raise LabError("a ping needs two pods; add some with: tortie lab pod add a b")
    spaces = {pod.name: fabric.NAMESPACES / lab.plan.pod_namespace(pod.name) for pod in chosen}
    addresses = {pod.name: pod.ip for pod in chosen}
    pairs = list(permutations(spaces, 2))
    with icmp.pinger(spaces, addresses) as pings:
        done = 0
        while done < rounds and not until():
            started = time.monotonic()
            pings.send_round(pairs)
            done += 1
            last = done >= rounds
            pings.receive(started + (REPLY_SECONDS if last else ROUND_SECONDS))
            if not last:
                time.sleep(max(0.0, started + ROUND_SECONDS - time.monotonic()))
        pings.receive(time.monotonic() + REPLY_SECONDS)
        return pings
