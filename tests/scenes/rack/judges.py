"""The judges: Debian's BIRD and FRR in the node's place, configured as Calico configures its BIRD; and the peers."""

from __future__ import annotations

import os
import pwd
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from agent.lab import lab_processes
from agent.lab.lab_plan import LabError
from tests.scenes.rack.judged_scenes import NODE_AS, Scene

READY_SECONDS = 20.0
FAR = """
router id 192.0.2.9;
log "{folder}/far.log" all;
protocol device {{ scan time 1; }}
{peers}
"""
FAR_PEER = """
ipv{v} table t_{name};
protocol static s_{name} {{ ipv{v} {{ table t_{name}; }}; {routes} }}
protocol bgp {name} {{
  local {address} as {asn}; neighbor {near} as {node_as}; multihop; router id 192.0.2.{number};
  connect delay time 1; connect retry time 1; error wait time 1, 2; hold time 9; graceful restart off;
  {more}
  ipv{v} {{ table t_{name}; import none; next hop keep;
    export filter {{ {how} accept; }}; }};
}}
"""
JUDGE = """
router id 172.26.0.11;
log "{folder}/judge.log" all;
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; ipv6; interface -"cali*", "*"; }}
protocol kernel kernel4 {{ learn; persist; scan time 1; ipv4 {{ import all; export where source = RTS_BGP; }}; {more} }}
protocol kernel kernel6 {{ learn; persist; scan time 1; ipv6 {{ import all; export where source = RTS_BGP; }}; {more} }}
{peers}
"""
JUDGE_PEER = """
protocol bgp {name} {{
  local as {node_as}; neighbor {address} as {asn}; multihop; source address {near};
  connect delay time 1; connect retry time 1; error wait time 1, 2; hold time 9; graceful restart off;
  {more}
  ipv{v} {{ import all; export none; }};
}}
"""
FRR = """
frr defaults traditional
router bgp {asn}
 bgp router-id 172.26.0.11
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 {relax}
 {neighbours}
 address-family ipv4 unicast
  maximum-paths {paths}
  maximum-paths ibgp {paths}
  {activated4}
 exit-address-family
 address-family ipv6 unicast
  maximum-paths {paths}
  maximum-paths ibgp {paths}
  {activated6}
 exit-address-family
"""


@dataclass(frozen=True, slots=True)
class Place:
    """The node's namespace and the far side's, once around us and once around the judge."""

    name: str
    node: str
    far: str
    folder: Path

    def ip(self, namespace: str, *commands: str) -> None:
        """Run some `ip` commands; each must succeed."""
        for command in commands:
            words = lab_processes.inside(namespace, ["ip", *command.split()])
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{self.name}: ip {command}: {done.stderr.strip()}"

    def start(self, namespace: str, what: str, words: list[str], ready: Path) -> subprocess.Popen[bytes]:
        """Start a process; until a file is there by which it says that it answers."""
        ready.unlink(missing_ok=True)
        log = self.folder / f"{what}.err"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *lab_processes.inside(namespace, words)],
                stdout=errors,
                stderr=errors,
            )
        try:
            lab_processes.wait_for(what, ready.exists, READY_SECONDS, lambda: f"; it said: {log.read_text()}")
        except LabError:
            process.kill()
            process.wait()
            raise
        return process

    def bird(self, namespace: str, what: str, config: str) -> subprocess.Popen[bytes]:
        """Start a BIRD; it answers when this returns."""
        path, control = self.folder / f"{what}.conf", self.folder / f"{what}.ctl"
        path.write_text(config)
        return self.start(namespace, what, ["bird", "-f", "-c", str(path), "-s", str(control)], control)

    def birdc(self, what: str, *words: str) -> str:
        """What a BIRD here answers."""
        control = str(self.folder / f"{what}.ctl")
        done = subprocess.run(["birdc", "-s", control, *words], check=True, capture_output=True, text=True)
        return done.stdout


@dataclass(frozen=True, slots=True)
class Options:
    """How the judges are configured beside the scene."""

    maximum_paths: int = 1
    """1: one path each, as both are by default."""
    as_relax: bool = True
    """FRR's `bestpath as-path multipath-relax`, which BIRD cannot but have."""


class Judge(ABC):
    """A daemon in the node's place."""

    name = ""
    protocol = ""
    """Of its routes, as `ip route` names it."""

    def __init__(self, place: Place, options: Options) -> None:
        self.place, self.options = place, options

    @abstractmethod
    def start(self, scene: Scene) -> list[subprocess.Popen[bytes]]:
        """Start it."""

    @abstractmethod
    def established(self) -> int:
        """How many sessions are up."""

    @abstractmethod
    def said(self) -> str:
        """Its sessions and its table, for a failure."""


class BirdJudge(Judge):
    """BIRD 2."""

    name = protocol = "bird"

    def start(self, scene: Scene) -> list[subprocess.Popen[bytes]]:
        paths = self.options.maximum_paths
        merging = f"merge paths on limit {paths};" if paths > 1 else ""
        peers = [
            JUDGE_PEER.format(
                v=one.version,
                name=one.name,
                address=one.address,
                asn=one.asn,
                near=one.near,
                node_as=NODE_AS,
                more=one.bird,
            )
            for one in scene.peers
        ]
        config = JUDGE.format(folder=self.place.folder, more=merging, peers="".join(peers))
        return [self.place.bird(self.place.node, "judge", config)]

    def established(self) -> int:
        return self.place.birdc("judge", "show", "protocols").count("Established")

    def said(self) -> str:
        return self.place.birdc("judge", "show", "protocols") + self.place.birdc(
            "judge", "show", "route", "all"
        )


class FrrJudge(Judge):
    """FRR's zebra and bgpd."""

    name, protocol = "frr", "bgp"

    def start(self, scene: Scene) -> list[subprocess.Popen[bytes]]:
        folder = self.place.folder
        neighbours, activated = list[str](), dict[int, list[str]]({4: [], 6: []})
        for one in scene.peers:
            peer = f"neighbor {one.address}"
            neighbours += [f"{peer} remote-as {one.asn}", f"{peer} update-source {one.near}"]
            neighbours += [f"{peer} ebgp-multihop 255"] if one.asn != NODE_AS else []
            neighbours += [f"{peer} timers 3 9", f"{peer} timers connect 1"]
            activated[one.version] += [f"{peer} activate", *(f"{peer} {more}" for more in one.frr)]
        text = FRR.format(
            asn=NODE_AS,
            relax="bgp bestpath as-path multipath-relax" if self.options.as_relax else "",
            paths=self.options.maximum_paths,
            neighbours="\n ".join(neighbours),
            activated4="\n  ".join(activated[4]),
            activated6="\n  ".join(activated[6]),
        )
        (folder / "bgpd.conf").write_text(text)
        (folder / "zebra.conf").write_text("ip nht resolve-via-default\nipv6 nht resolve-via-default\n")
        owner = pwd.getpwnam("frr")
        Path("/run/frr").mkdir(exist_ok=True)
        for path in (Path("/run/frr"), folder, *folder.glob("*.conf")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        return [self._run("zebra", folder / "zserv.api"), self._run("bgpd", folder / "bgpd.vty")]

    def _run(self, daemon: str, ready: Path) -> subprocess.Popen[bytes]:
        folder = self.place.folder
        words = [
            *(f"/usr/lib/frr/{daemon}", "-f", str(folder / f"{daemon}.conf"), "-A", "127.0.0.1"),
            *(
                "-z",
                str(folder / "zserv.api"),
                "-i",
                str(folder / f"{daemon}.pid"),
                "--vty_socket",
                str(folder),
            ),
        ]
        return self.place.start(self.place.node, daemon, words, ready)

    def established(self) -> int:
        return self._ask("show bgp neighbors").count("BGP state = Established")

    def said(self) -> str:
        return self._ask(
            "show bgp ipv4 summary",
            "show bgp ipv6 summary",
            "show bgp ipv4 unicast",
            "show bgp ipv6 unicast",
            "show bgp nexthop",
        )

    def _ask(self, *lines: str) -> str:
        words = [word for line in lines for word in ("-c", line)]
        command = ["vtysh", "--vty_socket", str(self.place.folder), *words]
        done = subprocess.run(
            lab_processes.inside(self.place.node, command), capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr


JUDGES: tuple[type[Judge], ...] = (BirdJudge, FrrJudge)


def far_config(place: Place, scene: Scene) -> str:
    peers = [
        FAR_PEER.format(
            v=one.version,
            name=one.name,
            number=number,
            address=one.address,
            asn=one.asn,
            near=one.near,
            node_as=NODE_AS,
            routes=" ".join(f"route {what.prefix} blackhole;" for what in one.announces),
            how=" ".join(
                f"if net = {what.prefix} then {{ {what.how} }}" for what in one.announces if what.how
            ),
            more=one.far_bird,
        )
        for number, one in enumerate(scene.peers, 10)
    ]
    return FAR.format(folder=place.folder, peers="".join(peers))
