"""What comes before the agent's loop: its flags, its settings, its lock, the garbage collector's thresholds.

Promises: everything that can be known to be wrong with the settings is one sentence before the first thing is done; two
agents never serve one run directory. Does not know: what the agent does.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import os
from collections.abc import Iterable
from pathlib import Path

from agent.configuration.config import Config, ConfigError, accepted_prefixes, local_prefixes
from agent.configuration.loading import load
from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.dataplane.kernel.ownership import Ownership
from agent.datastore.etcd_settings import check_files
from agent.netlink.objects import Route
from agent.netlink.rtnexthops import Resilience
from ipam.selector import parse

YOUNG_OBJECTS, COLLECTIONS_BETWEEN = 50_000, (20, 50)


def take_agent_lock(run: Path) -> int:
    """Hold this node's lock while the process lives. Raises ConfigError when another agent has it."""
    descriptor = os.open(run / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        raise ConfigError(
            f"another agent (pid {other}) already serves {run}; stop it, or set paths.run"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def agent_parser() -> argparse.ArgumentParser:
    """The daemon's flags."""
    found = argparse.ArgumentParser(
        prog="tortie-agent",
        description="The node agent: programs pod routes, answers the CNI plugin, speaks BGP with the other nodes.",
        epilog="example: tortie-agent --etcd-endpoints http://10.0.0.1:2379 --node-address 10.0.0.5/24",
    )
    found.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: /etc/tortie/agent.toml)"
    )
    found.add_argument("--node-name", metavar="NAME", help="default: the host name")
    found.add_argument(
        "--node-address", metavar="A.B.C.D/LEN", help="default: found by the route to the datastore"
    )
    found.add_argument("--etcd-endpoints", metavar="URL,...", help="default: http://127.0.0.1:2379")
    return found


def checked_settings(arguments: argparse.Namespace) -> Config:
    """File, environment and flags as one, with everything that can be known to be wrong of them. Raises ConfigError."""
    flags = {
        "node.name": arguments.node_name,
        "node.address": arguments.node_address,
        "etcd.endpoints": arguments.etcd_endpoints,
    }
    config = load(arguments.config, os.environ, {name: text for name, text in flags.items() if text})
    check_files(config.etcd)
    return config


def kernel_of(config: Config) -> NetlinkKernel:
    """The kernel, programmed as the settings say."""
    kernel = config.kernel
    idle, unbalanced = kernel.resilient_idle_seconds, kernel.resilient_unbalanced_seconds
    resilience = Resilience(kernel.resilient_buckets, idle, unbalanced) if kernel.resilient_groups else None
    offload = fact_settings(config).tunnel_offload is not None
    return NetlinkKernel(nexthop_objects=kernel.nexthop_objects, resilience=resilience, offload=offload)


def fact_settings(config: Config) -> FactSettings:
    """The settings that are facts."""
    marks, kernel, workloads = config.routes, config.kernel, config.workloads
    return FactSettings(
        Ownership(marks.learned, marks.blackhole, marks.datastore, marks.tunnel, marks.workload),
        open_forward=kernel.open_forward,
        from_datastore=marks.source == "datastore",
        tunnel_offload={"on": True, "off": False}.get(kernel.tunnel_offload),
        local_prefixes=local_prefixes(config.bgp),
        accepted_prefixes=accepted_prefixes(config.bgp),
        filter_workloads=workloads.filter,
        peers=parse(workloads.peers) if workloads.peers.strip() else None,
        routers=parse(workloads.routers) if workloads.routers.strip() else None,
    )


def is_another_life(config: Config, routes: Iterable[Route]) -> bool:
    """Whether an agent ran here before, by the routes that it left in the kernel."""
    marks = config.routes.learned, config.routes.blackhole
    return any(route.protocol in marks for route in routes)


def spare_the_collector() -> None:
    """Have the garbage collector look at what is new and leave what lives for ever.

    A table of 100,000 routes is a million objects that are no garbage: with Python's own thresholds looking through
    them again and again took half the time of learning them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *COLLECTIONS_BETWEEN)
