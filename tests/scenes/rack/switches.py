"""Switches: namespaces that forward, with Debian's BIRD or FRR as their daemon, killed, stopped, frozen, uncabled."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from agent.lab import fabric, lab_processes
from agent.netlink.namespaces import entered

HOLD_SECONDS = 9
START_SECONDS = 40.0
BFD_MILLISECONDS, BFD_MULTIPLIER = 100, 3
BIRD = """
router id {router_id};
log "{log}" all;
{restart}
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; }}
protocol kernel {{
  {persist} merge paths on limit 8; scan time 2;
  ipv4 {{ import none; export where source = RTS_BGP; }};
}}
protocol bfd {{ interface "*" {{ min rx interval {bfd} ms; min tx interval {bfd} ms; multiplier {multiplier}; }}; }}
template bgp neighbour {{
  local as {asn}; direct;
  hold time {hold}; connect delay time 1; connect retry time 1; error wait time 1, 2;
  graceful restart {graceful};
  ipv4 {{ import all; next hop self; export none; }};
}}
{neighbours}
"""
FRR = """
frr defaults datacenter
ip prefix-list nodes deny {spine}/32
ip prefix-list nodes permit 0.0.0.0/0 le 30
ip prefix-list nodes permit 0.0.0.0/0 ge 32
bfd
 profile rack
  receive-interval {bfd}
  transmit-interval {bfd}
  detect-multiplier {multiplier}
router bgp {asn}
 bgp router-id {router_id}
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp bestpath as-path multipath-relax
 {graceful}
 {neighbours}
 address-family ipv4 unicast
  maximum-paths 8
  redistribute connected
  {activated}
"""


@dataclass(frozen=True, slots=True)
class Uplink:
    """A cable of a switch: the interface and address at each end."""

    name: str
    """The switch's interface."""
    address: IPv4Address
    """The switch's, of a /31."""
    far: IPv4Address
    asn: int
    """The other end's."""
    is_node: bool
    """Whether a node is there, which is told neither of links nor of the spine's own address: others' are its own."""


@dataclass(slots=True)
class Switch(ABC):
    """A ToR or the spine."""

    name: str
    namespace: str
    asn: int
    router_id: str
    spine: str
    """The spine's own address."""
    folder: Path
    uplinks: list[Uplink] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @abstractmethod
    def start(self, *, graceful: bool = True, bfd: bool = False, again: bool = False) -> None:
        """Start its daemon; `graceful`: what it forwards, and its peers' paths, outlive the daemon (RFC 4724).

        `again`: as one whose forwarding went on while it was away.
        """

    def run(self, name: str, command: list[str], ready: Path) -> None:
        """Start a process; until a file is there by which it says that it listens."""
        ready.unlink(missing_ok=True)
        errors = self.folder / f"{name}.err"
        with errors.open("wb") as output:
            words = ["setpriv", "--pdeathsig", "KILL", *lab_processes.inside(self.namespace, command)]
            self.processes.append(subprocess.Popen(words, stdout=output, stderr=output))
        lab_processes.wait_for(
            f"{name} of {self.name}", ready.exists, START_SECONDS, lambda: f"; it said: {errors.read_text()}"
        )

    def kill(self) -> None:
        """kill -9 of the daemon: the switch goes on forwarding by what its kernel has."""
        for process in self._speakers():
            process.kill()
            process.wait()
            self.processes.remove(process)

    def stop(self) -> None:
        """The daemon's orderly end: it tells its neighbours."""
        for process in self._speakers():
            process.terminate()
            process.wait(START_SECONDS)
            self.processes.remove(process)

    def end(self) -> None:
        """Leave nothing behind."""
        for process in self.processes:
            process.kill()
            process.wait()

    def _speakers(self) -> list[subprocess.Popen[bytes]]:
        """The processes that are the daemon."""
        return list(self.processes)

    def freeze(self) -> None:
        """Nothing of it moves any more, neither daemon nor packets; its cables seem well."""
        for process in self.processes:
            os.kill(process.pid, signal.SIGSTOP)
        self.forward(wanted=False)

    def thaw(self) -> None:
        """The end of that."""
        self.forward(wanted=True)
        for process in self.processes:
            os.kill(process.pid, signal.SIGCONT)

    def forward(self, *, wanted: bool) -> None:
        """Whether it forwards packets."""
        with entered(fabric.NAMESPACES / self.namespace):
            Path("/proc/sys/net/ipv4/ip_forward").write_text(str(int(wanted)))

    def set_cables(self, state: str, *names: str) -> None:
        """Set its ends of some cables, or of all, `up` or `down`: the other ends lose their carrier."""
        for name in names or [one.name for one in self.uplinks]:
            ip(self.namespace, f"link set {name} {state}")


class BirdSwitch(Switch):
    """BIRD 2."""

    def start(self, *, graceful: bool = True, bfd: bool = False, again: bool = False) -> None:
        self.folder.mkdir(exist_ok=True)
        config, control = self.folder / "bird.conf", self.folder / "bird.ctl"
        config.write_text(
            BIRD.format(
                router_id=self.router_id,
                log=self.folder / "bird.log",
                restart="graceful restart wait 10;" if graceful else "",
                persist="persist; graceful restart on;" if graceful else "",
                graceful="on" if graceful else "off",
                asn=self.asn,
                hold=HOLD_SECONDS,
                bfd=BFD_MILLISECONDS,
                multiplier=BFD_MULTIPLIER,
                neighbours="\n".join(self._protocol(one, bfd=bfd) for one in self.uplinks),
            )
        )
        words = ["bird", "-f", "-c", str(config), "-s", str(control), *(["-R"] if again else [])]
        self.run("BIRD", words, control)

    def _protocol(self, one: Uplink, *, bfd: bool) -> str:
        told = f"net.len != 31 && net != {self.spine}/32" if one.is_node else "true"
        return (
            f"protocol bgp from_{one.name} from neighbour {{"
            f' neighbor {one.far} as {one.asn}; interface "{one.name}"; source address {one.address};'
            f" {'bfd on;' if bfd else ''}"
            f" ipv4 {{ export where source ~ [ RTS_BGP, RTS_DEVICE ] && {told}; }}; }}"
        )


class FrrSwitch(Switch):
    """FRR's bgpd; zebra and bfdd beside it."""

    def start(self, *, graceful: bool = True, bfd: bool = False, again: bool = False) -> None:
        self.folder.mkdir(exist_ok=True)
        neighbours, activated = list[str](), list[str]()
        for one in self.uplinks:
            peer = f"neighbor {one.far}"
            neighbours += [f"{peer} remote-as {one.asn}", f"{peer} timers 3 {HOLD_SECONDS}"]
            neighbours += [f"{peer} timers connect 1", f"{peer} advertisement-interval 0"]
            neighbours += [f"{peer} bfd profile rack"] if bfd else []
            activated += [f"{peer} activate", *([f"{peer} prefix-list nodes out"] if one.is_node else [])]
        restart = ["bgp graceful-restart", "bgp graceful-restart preserve-fw-state"] if graceful else []
        text = FRR.format(
            spine=self.spine,
            asn=self.asn,
            router_id=self.router_id,
            graceful="\n ".join(restart),
            bfd=BFD_MILLISECONDS,
            multiplier=BFD_MULTIPLIER,
            neighbours="\n ".join(neighbours),
            activated="\n  ".join(activated),
        )
        bfd_part, _, bgp_part = text.partition("router bgp")
        lists, _, profile = bfd_part.partition("\nbfd\n")
        for daemon, config in (
            ("zebra", ""),
            ("bfdd", f"bfd\n{profile}"),
            ("bgpd", f"{lists}\nrouter bgp{bgp_part}"),
        ):
            (self.folder / f"{daemon}.conf").write_text(config)
        owner = pwd.getpwnam("frr")
        Path("/run/frr").mkdir(exist_ok=True)
        for path in (Path("/run/frr"), self.folder, *self.folder.glob("*.conf")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        if not self.processes:
            self._run_one("zebra", self.folder / "zserv.api", "-K", "60")
            # A control socket of its own; FRR 10 has none any more.
            said = subprocess.run(["/usr/lib/frr/bfdd", "--help"], capture_output=True, text=True, check=True)
            control = ("--bfdctl", str(self.folder / "bfdd.sock")) if "--bfdctl" in said.stdout else ()
            self._run_one("bfdd", self.folder / "bfdd.vty", *control)
        self._run_one("bgpd", self.folder / "bgpd.vty")

    def _run_one(self, daemon: str, ready: Path, *more: str) -> None:
        folder = self.folder
        self.run(
            daemon,
            [
                *(f"/usr/lib/frr/{daemon}", "-f", str(folder / f"{daemon}.conf")),
                *("-z", str(folder / "zserv.api"), "-i", str(folder / f"{daemon}.pid"), "-A", "127.0.0.1"),
                *("--vty_socket", str(folder), *more),
            ],
            ready,
        )

    def _speakers(self) -> list[subprocess.Popen[bytes]]:
        """Zebra outlives bgpd, and BFD is of another process, too."""
        return self.processes[2:]


def ip(namespace: str, command: str) -> str:
    """Run `ip COMMAND` in a namespace; it must succeed."""
    words = lab_processes.inside(namespace, ["ip", *command.split()])
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{namespace}: ip {command}: {done.stderr.strip()}"
    return done.stdout
