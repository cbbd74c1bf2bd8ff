"""The speakers under test, each started as its own users start it, in a namespace: ours with etcd, BIRD, FRR, GoBGP.

Promises: all are in AS 64512, listen on 10.0.0.1, take an internal session from 10.0.0.2 and put what they learn into
the kernel's main table, but for GoBGP, which has none: 3.10 leaves that to zebra, and panics at the words of FRR 8.4's.
`held` counts the prefixes that arrived where each puts them. They end with their namespace.
Does not know: feeds, clocks.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.testbed import ETCD_URL, BenchError, Space, start_etcd, wait_for

ADDRESS, FEEDER_ADDRESS, LENGTH = "10.0.0.1", "10.0.0.2", 12
AS_NUMBER = 64512
POOL = {
    "apiVersion": "projectcalico.org/v3",
    "kind": "IPPool",
    "metadata": {"name": "pool"},
    "spec": {"cidr": "32.0.0.0/3", "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Never"},
}
"""Holds every feed, so that each learned route passes the pool's rules as in a real cluster."""


def node(name: str, address: str) -> dict[str, object]:
    """A node of the cluster."""
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"bgp": {"ipv4Address": f"{address}/{LENGTH}"}},
    }


BIRD = """
router id {address};
log stderr {{ warning, error, fatal, bug }};
protocol device {{ }}
protocol direct {{ ipv4; }}
protocol kernel {{ ipv4 {{ import none; export all; }}; merge paths off; }}
protocol bgp feeder {{
  local {address} as {asn}; neighbor {feeder} as {asn}; direct; passive;
  ipv4 {{ import all; export none; }};
}}
"""
FRR = """
frr defaults datacenter
router bgp {asn}
 bgp router-id {address}
 no bgp ebgp-requires-policy
 neighbor {feeder} remote-as {asn}
 neighbor {feeder} passive
"""


GOBGP = """
[global.config]
  as = {asn}
  router-id = "{address}"
  local-address-list = ["{address}"]
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{feeder}"
    peer-as = {asn}
  [neighbors.transport.config]
    passive-mode = true
    local-address = "{address}"
"""
RIB_ONLY = frozenset({"gobgp"})
"""Speakers that write no route into the kernel."""


class Bird:
    """BIRD 2 with its kernel protocol."""

    name = "bird"

    def __init__(self, space: Space, folder: Path) -> None:
        self._space, self._folder = space, folder
        self.pids: list[int] = []

    def held(self) -> int:
        """The prefixes in the kernel."""
        return self._space.prefixes()

    def start(self) -> None:
        """Start it; it listens when this returns."""
        config = self._folder / "bird.conf"
        config.write_text(BIRD.format(address=ADDRESS, feeder=FEEDER_ADDRESS, asn=AS_NUMBER))
        command = ["bird", "-f", "-c", str(config), "-s", str(self._folder / "bird.ctl")]
        self.pids = [self._space.start(command, self._folder / "bird.log").pid]


class Gobgp:
    """GoBGP without zebra: a RIB."""

    name = "gobgp"

    def __init__(self, space: Space, folder: Path) -> None:
        self._space, self._folder = space, folder
        self.pids: list[int] = []

    def start(self) -> None:
        """Start it; it listens when this returns."""
        config = self._folder / "gobgpd.toml"
        config.write_text(GOBGP.format(address=ADDRESS, feeder=FEEDER_ADDRESS, asn=AS_NUMBER))
        command = ["gobgpd", "-f", str(config), "--api-hosts", "127.0.0.1:50051", "--pprof-disable"]
        self.pids = [self._space.start(command, self._folder / "gobgpd.log").pid]
        wait_for("gobgpd", self._answers, 20)

    def _answers(self) -> bool:
        try:
            return self.held() == 0
        except BenchError:
            return False

    def held(self) -> int:
        """The destinations in its RIB."""
        said = self._space.run("gobgp", "global", "rib", "summary")
        found = re.search(r"Destination: (\d+)", said)
        return int(found[1]) if found else 0


class Frr:
    """FRR's bgpd and zebra."""

    name = "frr"

    def __init__(self, space: Space, folder: Path) -> None:
        self._space, self._folder = space, folder
        self.pids: list[int] = []

    def held(self) -> int:
        """The prefixes in the kernel."""
        return self._space.prefixes()

    def start(self) -> None:
        """Start both; bgpd may not listen yet when this returns."""
        run = self._folder / "frr"
        run.mkdir()
        owner = pwd.getpwnam("frr")
        Path("/run/frr").mkdir(exist_ok=True)
        os.chown("/run/frr", owner.pw_uid, owner.pw_gid)
        (run / "zebra.conf").write_text("")
        (run / "bgpd.conf").write_text(FRR.format(address=ADDRESS, feeder=FEEDER_ADDRESS, asn=AS_NUMBER))
        for path in (self._folder, run, *run.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        socket = run / "zserv.api"
        for daemon, more in (("zebra", []), ("bgpd", ["-l", ADDRESS])):
            command = [f"/usr/lib/frr/{daemon}", "-f", str(run / f"{daemon}.conf"), "-z", str(socket)]
            command += ["-i", str(run / f"{daemon}.pid"), "-A", "127.0.0.1", "--vty_socket", str(run), *more]
            self.pids.append(self._space.start(command, self._folder / f"{daemon}.log").pid)
            if daemon == "zebra":
                wait_for("zebra's socket", socket.exists, 20)


class Tortie:
    """Our agent with an etcd of its own; the feeder is a node of the cluster, so the mesh peers with it."""

    name = "tortie"

    def __init__(self, space: Space, folder: Path, more: dict[str, str] | None = None) -> None:
        self._space, self._folder = space, folder
        self.more = more or {}
        self.documents: tuple[object, ...] = (node("feeder", FEEDER_ADDRESS),)
        """Applied after the pool; by default the feeder is a node, so the mesh peers with it."""
        self.environment = {
            "TORTIE_NODE_NAME": "under-test",
            "TORTIE_NODE_ADDRESS": f"{ADDRESS}/{LENGTH}",
            "TORTIE_PATHS_RUN": str(folder / "run"),
            "TORTIE_PATHS_STATE": str(folder / "state"),
            "TORTIE_CNI_SOCKET": str(folder / "run" / "cni.sock"),
            "TORTIE_ETCD_ENDPOINTS": ETCD_URL,
            "TORTIE_LOG_LEVEL": "warning",
            # The feeder is a node of the mesh, and announces what no node would; its peers here have no limits either.
            "TORTIE_BGP_MESH_MAXIMUM_PREFIXES": "0",
            "TORTIE_BGP_MAXIMUM_MEBIBYTES": "0",
            **self.more,
        }
        self.pids: list[int] = []
        self._agent: subprocess.Popen[bytes] | None = None

    def command(self, *words: str, text: str | None = None) -> str:
        """`tortie WORDS` beside the agent. Raises BenchError."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return self._space.run("env", *settings, sys.executable, "-m", "agent.cli.main", *words, text=text)

    def start(self) -> None:
        """Start etcd, write the pool and the documents, start the agent; it is in sync when this returns."""
        start_etcd(self._space, self._folder)
        for document in (POOL, *self.documents):
            self.command("apply", "-f", "-", text=json.dumps(document))
        self.start_agent()

    def start_agent(self) -> None:
        """Start the agent alone; it is in sync when this returns."""
        agent = self._space.start(
            [sys.executable, "-m", "agent.daemon"], self._folder / "agent.log", self.environment
        )
        self._agent, self.pids = agent, [agent.pid]
        wait_for("the agent", lambda: bool(self.status().get("in_sync")), 60)

    def held(self) -> int:
        """The prefixes in the kernel."""
        return self._space.prefixes()

    def status(self) -> dict[str, object]:
        """What the agent says of itself; empty while none answers."""
        from agent import control

        try:
            answer: dict[str, object] = control.ask(self._folder / "run" / "agent.sock", "status")
        except control.NotRunning:
            return {}
        return answer

    def kill(self) -> None:
        """kill -9 of the agent alone."""
        assert self._agent is not None
        self._space.end(self._agent, signal.SIGKILL)


def with_nexthop_objects(space: Space, folder: Path) -> Tortie:
    """Our agent with `kernel_nexthop_objects`: routes share nexthop objects."""
    made = Tortie(space, folder, {"TORTIE_KERNEL_NEXTHOP_OBJECTS": "true"})
    made.name = "tortie, nexthop objects"
    return made


Speaker = Bird | Frr | Gobgp | Tortie
SPEAKERS: dict[str, Callable[[Space, Path], Speaker]] = {
    "tortie": Tortie,
    "tortie, nexthop objects": with_nexthop_objects,
    "bird": Bird,
    "frr": Frr,
    "gobgp": Gobgp,
}


def available(name: str) -> bool:
    """Whether a speaker is on this machine."""
    needed = {"bird": "bird", "frr": "/usr/lib/frr/bgpd", "gobgp": "gobgpd"}.get(name, "etcd")
    return shutil.which(needed) is not None
