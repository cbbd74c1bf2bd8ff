"""`tortie lab …`: a cluster on this machine.

Promises: every LabError is a sentence and exit code 1; modules of the lab are imported when a command runs.
Does not know: how a lab works.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from agent.cli.command import CommandFailed, Run, add_command, add_group, reported

MODES = ("none", "vxlan", "ipip", "crosssubnet")
UP_EXAMPLES = """\
examples:
  tortie lab up                               three nodes, VXLAN
  tortie lab up --nodes 2 --mode none
  tortie lab up --name other --mode none      a second lab beside the first
  tortie lab up --pool my-pool.json
"""
POD_EXAMPLES = """\
examples:
  tortie lab pod add a b c                    spread over the nodes
  tortie lab pod add d e --node node1         two pods on one node
  tortie lab pod rm a
"""
EXEC_EXAMPLES = """\
examples:
  tortie lab exec node1 -- ip route
  tortie lab exec node2 -- tortie node status
  tortie lab exec pod/a -- ip addr
"""
AGENT_EXAMPLES = """\
examples:
  tortie lab agent kill node1                 kill -9; routes stay, peers keep theirs
  tortie lab agent start node1
"""
PING_EXAMPLES = "examples:\n  tortie lab ping\n  tortie lab ping a b --count 10"
ETCD_EXAMPLES = "examples:\n  tortie lab etcd stop\n  tortie lab etcd start"


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    verbs = add_group(subparsers, "lab", "a cluster on this machine, in network namespaces")

    def verb(name: str, words: str, run: Run, examples: str = "", which: str | None = "lab") -> Any:
        epilog = examples or f"examples:\n  tortie lab {name}\n  tortie lab {name} --name other"
        made = add_command(verbs, name, words, _guarded(run), epilog, description=words)
        default = f"which lab (default: {which})" if which else "the lab's name (default: one that is free)"
        made.add_argument("--name", default=which, help=default)
        return made

    up = verb("up", "start a lab; a left-over of the same name is removed first", run_lab_up, UP_EXAMPLES)
    up.add_argument("--nodes", type=int, default=3, metavar="N")
    up.add_argument("--mode", choices=MODES, default="vxlan")
    text = "pools to apply, changed to the mode (default: 192.168.0.0/16)"
    up.add_argument("--pool", type=Path, metavar="FILE", help=text)
    up.add_argument("--dual-stack", action="store_true", help="pods have an IPv6 address, too")
    verb("down", "end a lab and remove every trace of it", run_lab_down)
    verb("status", "topology, sessions, routes", run_lab_status)
    text = "change the mode of the pools of a running lab"
    mode = verb("mode", text, run_lab_mode, "examples:\n  tortie lab mode none")
    mode.add_argument("mode", choices=MODES)
    pod = verb("pod", "add or remove pods", run_lab_pod, POD_EXAMPLES)
    pod.add_argument("what", choices=("add", "rm"))
    pod.add_argument("pods", nargs="+", metavar="POD")
    pod.add_argument("--node", metavar="NODE", help="default: spread over the nodes")
    ping = verb("ping", "pods ping each other", run_lab_ping, PING_EXAMPLES)
    ping.add_argument("pods", nargs="*", metavar="POD")
    ping.add_argument("--count", type=int, default=1, metavar="N")
    execute = verb("exec", "run a command on a node or, as pod/NAME, in a pod", run_lab_exec, EXEC_EXAMPLES)
    execute.add_argument("where", metavar="NODE")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="-- CMD")
    agent = verb("agent", "start, stop or kill -9 a node's agent", run_lab_agent, AGENT_EXAMPLES)
    agent.add_argument("what", choices=("start", "stop", "kill"))
    agent.add_argument("node", metavar="NODE")
    etcd = verb("etcd", "start or stop the lab's datastore", run_lab_etcd, ETCD_EXAMPLES)
    etcd.add_argument("what", choices=("start", "stop"))
    text = "the whole story: up, eight pods, pings, a live change of mode, down"
    demo = verb("demo", text, run_lab_demo, "examples:\n  tortie lab demo", which=None)
    demo.add_argument("--keep", action="store_true", help="leave the lab up at the end")


def _guarded(run: Run) -> Run:
    """The command `run`, with a LabError become CommandFailed."""

    def guarded(arguments: argparse.Namespace) -> None:
        from agent.lab.lab_plan import LabError

        with reported(LabError):
            run(arguments)

    return guarded


class ProgressLine:
    """One line that changes on a terminal; plain lines elsewhere, and where NO_COLOR asks for no sequences."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        self._last = ""

    def __call__(self, text: str) -> None:
        if text == self._last:
            return
        self._last = text
        before, after = ("\r\033[K", "") if self._live else ("", "\n")
        print(f"{before}{text} …", end=after, file=sys.stderr, flush=True)

    def done(self) -> None:
        """Clear the line."""
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def run_lab_up(arguments: argparse.Namespace) -> None:
    """`tortie lab up`."""
    import time

    from agent.lab import lifecycle
    from agent.lab.lab_plan import Mode

    progress, started = ProgressLine(), time.monotonic()
    name, nodes, mode = arguments.name, arguments.nodes, Mode(arguments.mode)
    try:
        lifecycle.up(name, nodes, mode, progress, arguments.pool, dual_stack=arguments.dual_stack)
    finally:
        progress.done()
    seconds = time.monotonic() - started
    print(f"lab {name} is up: {nodes} nodes, mode {mode.value}, in {seconds:.1f} s")


def run_lab_down(arguments: argparse.Namespace) -> None:
    """`tortie lab down`."""
    from agent.lab import lifecycle

    count = lifecycle.down(arguments.name)
    removed = f"lab {arguments.name} is down: {count} namespaces removed"
    print(removed if count else f"there was no lab {arguments.name}")


def run_lab_status(arguments: argparse.Namespace) -> None:
    """`tortie lab status`."""
    from agent.lab import lifecycle, show
    from agent.lab.lab_processes import agent_status, ip_route
    from agent.lab.pods import pods

    lab = lifecycle.find(arguments.name)
    print(show.topology(lab.plan, lab.mode, pods(lab.plan)))
    print()
    print(show.sessions({node.name: agent_status(node) for node in lab.plan.nodes}))
    print(show.route_tables({node.name: ip_route(node) for node in lab.plan.nodes}))


def run_lab_mode(arguments: argparse.Namespace) -> None:
    """`tortie lab mode`."""
    from agent.lab import lifecycle
    from agent.lab.lab_plan import Mode

    lab = lifecycle.change_mode(lifecycle.find(arguments.name), Mode(arguments.mode))
    print(f"the pools of lab {lab.plan.name} are now in mode {lab.mode.value}; the agents move their routes")


def run_lab_pod(arguments: argparse.Namespace) -> None:
    """`tortie lab pod add|rm`."""
    from agent.lab import lifecycle
    from agent.lab.pods import add_pod, pod_named, pods, remove_pod

    lab = lifecycle.find(arguments.name)
    present = len(pods(lab.plan))
    for number, name in enumerate(arguments.pods):
        if arguments.what == "rm":
            remove_pod(lab.plan, pod_named(lab.plan, name))
            print(f"pod {name} removed")
            continue
        spread = lab.plan.nodes[(present + number) % len(lab.plan.nodes)]
        pod = add_pod(lab.plan, name, lab.plan.node(arguments.node) if arguments.node else spread)
        print(f"pod {pod.name} on {pod.node}: {pod.address}")


def run_lab_ping(arguments: argparse.Namespace) -> None:
    """`tortie lab ping`."""
    from agent.lab import lifecycle, show
    from agent.lab.pods import pods

    lab = lifecycle.find(arguments.name)
    pings = lifecycle.ping(lab, arguments.pods, arguments.count)
    chosen = [pod for pod in pods(lab.plan) if pod.name in pings.sockets]
    print(show.matrix(pings.counts, chosen))
    if any(count.lost for count in pings.counts.values()):
        raise CommandFailed("some pings were lost")


def run_lab_exec(arguments: argparse.Namespace) -> None:
    """`tortie lab exec NODE -- CMD`: replaces this process by the command."""
    from agent.lab import lifecycle
    from agent.lab.lab_processes import inside
    from agent.lab.pods import pod_named

    lab = lifecycle.find(arguments.name)
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise CommandFailed("exec needs a command, such as: tortie lab exec node1 -- ip route")
    if arguments.where.startswith("pod/"):
        pod = pod_named(lab.plan, arguments.where.removeprefix("pod/"))
        namespace, environment = lab.plan.pod_namespace(pod.name), {}
    else:
        node = lab.plan.node(arguments.where)
        namespace, environment = node.namespace, node.environment
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    command = inside(namespace, words)
    sys.stdout.flush()
    os.execvpe(command[0], command, {**os.environ, "PATH": path, **environment})


def run_lab_agent(arguments: argparse.Namespace) -> None:
    """`tortie lab agent start|stop|kill NODE`."""
    import signal

    from agent.lab import lab_processes, lifecycle

    node = lifecycle.find(arguments.name).plan.node(arguments.node)
    if arguments.what == "start":
        if lab_processes.agent_status(node) is not None:
            raise CommandFailed(f"the agent of {node.name} runs already")
        lab_processes.start_agents([node])
        answers = lambda: lab_processes.agent_status(node) is not None  # noqa: E731
        lab_processes.wait_for(f"the agent of {node.name}", answers, lab_processes.AGENT_SECONDS)
    else:
        lab_processes.stop_agent(node, signal.SIGKILL if arguments.what == "kill" else signal.SIGTERM)
    done = {"start": "started", "stop": "stopped", "kill": "killed"}[arguments.what]
    print(f"agent of {node.name} {done}")


def run_lab_etcd(arguments: argparse.Namespace) -> None:
    """`tortie lab etcd start|stop`."""
    from agent.lab import lab_processes, lifecycle

    plan = lifecycle.find(arguments.name).plan
    change, done = {
        "start": (lab_processes.start_etcd, "started"),
        "stop": (lab_processes.stop_etcd, "stopped"),
    }[arguments.what]
    change(plan)
    print(f"etcd of lab {plan.name} {done}")


def run_lab_demo(arguments: argparse.Namespace) -> None:
    """`tortie lab demo`."""
    from agent.lab import demo

    progress = ProgressLine()
    with demo.free_name(arguments.name) as name:
        demo.play(name, print, progress, progress.done, keep=arguments.keep)
