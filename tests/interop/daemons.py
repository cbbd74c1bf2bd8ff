"""Debian's BIRD, FRR and GoBGP in the far namespace, configured from one description.

Promises: each originates `THEIR_BLOCK` (and `THEIR_BLOCK6`), has graceful restart on and ends with its process.
What it believes is seen as it happens: in its kernel's routes (BIRD, FRR) or in its own watch (GoBGP has no kernel).
Does not know: what is tested.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

from tests.interop.daemon import THEIR_BLOCK, THEIR_BLOCK6, Daemon, Setup, Watch
from tests.interop.world import (
    THEIRS,
    Far,
    Output,
    eventually,
    start,
    written,
)

BIRD = """
router id {router_id};
log stderr all;
graceful restart wait 20;
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; ipv6; }}
protocol kernel {{ ipv4 {{ import none; export {kernel}; }}; persist; graceful restart on; }}
protocol kernel {{ ipv6 {{ import none; export {kernel}; }}; persist; graceful restart on; }}
protocol static {{ ipv4; route {block} blackhole; }}
protocol static {{ ipv6; route {block6} blackhole; }}
template bgp node {{
  local {local} as {asn};
  direct;
  hold time 9; connect delay time 1; connect retry time 1; error wait time 1, 2;
  graceful restart on; enable extended messages on;
  {more}
  ipv4 {{ import all; export where source ~ [ RTS_STATIC, RTS_BGP ]; {several} }};
  {ipv6}
}}
"""


class Bird(Daemon):
    """BIRD 2."""

    name = "bird"

    async def start(self, *, again: bool = False) -> None:
        setup = self.setup
        more = f'password "{setup.password}";' if setup.password else ""
        more += "ttl security on;" if setup.is_near else ""
        more += f"graceful restart time {setup.restart_seconds};"
        if setup.long_lived_seconds:
            more += f"long lived graceful restart on; long lived stale time {setup.long_lived_seconds};"
        more += "rr client; rr cluster id 10.255.0.1;" if setup.reflects else ""
        text = BIRD.format(
            router_id=THEIRS,
            kernel="where source = RTS_BGP" if setup.kernel else "none",
            block=THEIR_BLOCK,
            block6=THEIR_BLOCK6,
            local=setup.local,
            asn=setup.asn,
            more=more,
            several="add paths on;" if setup.several else "",
            ipv6="ipv6 { import all; export where source ~ [ RTS_STATIC, RTS_BGP ]; };" if setup.ipv6 else "",
        )
        for number, (address, asn) in enumerate(setup.neighbours):
            text += f"protocol bgp node{number} from node {{ neighbor {address} as {asn}; }}\n"
        config = written(self.folder / "bird.conf", text)
        flags = ("-R",) if again else ()
        command = self.far.command("bird", "-f", "-c", config, "-s", self._control, *flags)
        output = await start(*command, errors=True)
        self._running = [output]
        await output.until("Started")

    @property
    def _control(self) -> str:
        return str(self.folder / "bird.ctl")

    def ask(self, *words: str) -> str:
        """Its answer to a command."""
        return self.far.run("birdc", "-s", self._control, *words)

    def refresh(self) -> None:
        self.ask("reload", "in", "node0")

    def shut(self, text: str) -> None:
        self.ask("disable", "node0", f'"{text}"')

    def paths(self, prefix: str) -> str:
        return self.ask("show", "route", prefix, "all")


FRR = """
frr defaults datacenter
router bgp {asn}
 bgp router-id {router_id}
 bgp cluster-id 10.255.0.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart restart-time {restart}
{long_lived}{neighbours}
 address-family ipv4 unicast
  network {block}
{activate}
 exit-address-family
 address-family ipv6 unicast
  network {block6}
{activate6}
 exit-address-family
"""


class Frr(Daemon):
    """FRR's bgpd, and zebra, which outlives it."""

    name = "frr"

    def __init__(self, far: Far, setup: Setup) -> None:
        super().__init__(far, setup)
        self._zebra: Output | None = None

    async def start(self, *, again: bool = False) -> None:
        setup = self.setup
        lines, activate, stays = [], [], setup.long_lived_seconds
        for address, asn in setup.neighbours:
            one = f" neighbor {address}"
            lines += [f"{one} remote-as {asn}", f"{one} timers 3 9", f"{one} timers connect 1"]
            lines += [f"{one} password {setup.password}"] if setup.password else []
            lines += [f"{one} ttl-security hops 1"] if setup.is_near else []
            lines += [f"{one} advertisement-interval 0"]
            activate += [f" {one} activate"]
            activate += [f" {one} route-reflector-client"] if setup.reflects else []
            activate += [f" {one} addpath-tx-all-paths"] if setup.several else []
        text = FRR.format(
            asn=setup.asn,
            router_id=THEIRS,
            restart=setup.restart_seconds,
            long_lived=f" bgp long-lived-graceful-restart stale-time {stays}\n" if stays else "",
            block=THEIR_BLOCK,
            block6=THEIR_BLOCK6,
            neighbours="\n".join(lines),
            activate="\n".join(activate),
            activate6="\n".join(activate) if setup.ipv6 else "",
        )
        written(self.folder / "bgpd.conf", text)
        written(self.folder / "zebra.conf", "")
        self._hand_over()
        if self._zebra is None:
            self._zebra = await self._run("zebra")
            await self._until_there(self.folder / "zserv.api")
        self._running = [await self._run("bgpd", "-l", setup.local, *(() if setup.kernel else ("-n",)))]
        await self._until_there(self.folder / "bgpd.vty")

    def _hand_over(self) -> None:
        owner = pwd.getpwnam("frr")
        Path("/run/frr").mkdir(exist_ok=True)
        for path in (Path("/run/frr"), self.folder, *self.folder.glob("*.conf")):
            os.chown(path, owner.pw_uid, owner.pw_gid)

    async def _run(self, daemon: str, *more: str) -> Output:
        folder = self.folder
        return await start(
            *self.far.command(f"/usr/lib/frr/{daemon}", "-f", str(folder / f"{daemon}.conf")),
            *("-z", str(folder / "zserv.api"), "-i", str(folder / f"{daemon}.pid"), "-A", "127.0.0.1"),
            *("--vty_socket", str(folder), *more),
        )

    async def _until_there(self, path: Path) -> None:
        """A socket says by being there that its daemon listens; no event says when it is made."""
        await eventually(path.exists)

    async def close(self) -> None:
        if self._zebra is not None:
            self._watching.append(self._zebra)
        await super().close()

    async def kill(self) -> None:
        await super().kill()
        (self.folder / "bgpd.vty").unlink(missing_ok=True)

    def ask(self, *lines: str) -> str:
        """Its answer to command lines."""
        words = [word for line in lines for word in ("-c", line)]
        return self.far.run("vtysh", "--vty_socket", str(self.folder), *words)

    def refresh(self) -> None:
        self.ask(f"clear bgp ipv4 unicast {self.setup.ours} in")

    def shut(self, text: str) -> None:
        line = f"neighbor {self.setup.ours} shutdown message {text}"
        self.ask("configure terminal", f"router bgp {self.setup.asn}", line)

    def paths(self, prefix: str) -> str:
        return self.ask(f"show bgp ipv{6 if ':' in prefix else 4} unicast {prefix}")


GOBGP = """
[global.config]
as = {asn}
router-id = "{router_id}"
local-address-list = ["{local}"]
"""
GOBGP_NEIGHBOUR = """
[[neighbors]]
[neighbors.config]
neighbor-address = "{address}"
peer-as = {asn}
auth-password = "{password}"
[neighbors.timers.config]
connect-retry = 1
hold-time = 9
keepalive-interval = 3
idle-hold-time-after-reset = 1
[neighbors.transport.config]
local-address = "{local}"
[neighbors.graceful-restart.config]
enabled = true
restart-time = 20
[neighbors.ttl-security.config]
enabled = {near}
ttl-min = 255
[neighbors.route-reflector.config]
route-reflector-client = {reflects}
route-reflector-cluster-id = "10.255.0.1"
"""
GOBGP_FAMILY = """
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = "{family}-unicast"
[neighbors.afi-safis.mp-graceful-restart.config]
enabled = true
"""
GOBGP_ADD_PATHS = """
[neighbors.afi-safis.add-paths.config]
receive = true
send-max = 8
"""


def _gobgp_line(line: str) -> tuple[str, bool] | None:
    words = line.split()
    kinds = {"[ROUTE]": True, "[DELROUTE]": False}
    return (words[2], kinds[words[1]]) if len(words) > 2 and words[1] in kinds else None


class Gobgp(Daemon):
    """GoBGP without zebra."""

    name = "gobgp"

    async def start(self, *, again: bool = False) -> None:
        setup = self.setup
        text = GOBGP.format(asn=setup.asn, router_id=THEIRS, local=setup.local)
        for address, asn in setup.neighbours:
            text += GOBGP_NEIGHBOUR.format(
                address=address,
                asn=asn,
                local=setup.local,
                password=setup.password,
                near="true" if setup.is_near else "false",
                reflects="true" if setup.reflects else "false",
            )
            for family in ("ipv4", "ipv6") if setup.ipv6 else ("ipv4",):
                text += GOBGP_FAMILY.format(family=family)
                text += GOBGP_ADD_PATHS if setup.several else ""
        config = written(self.folder / "gobgpd.toml", text)
        flags = ["--api-hosts", "127.0.0.1:50051", "--pprof-disable", *(["-r"] if again else [])]
        output = await start(*self.far.command("gobgpd", "-f", config, *flags))
        self._running = [output]
        await output.until("gobgpd started")
        await self._originate()
        if setup.kernel and not again:  # a watch that nobody reads would hold it up
            await self._follow_itself()

    async def _originate(self) -> None:
        await eventually(self._answers)
        self.ask("global", "rib", "add", THEIR_BLOCK)
        self.ask("global", "rib", "add", "-a", "ipv6", THEIR_BLOCK6)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("global"))
        except subprocess.CalledProcessError:
            return False

    async def follow(self) -> None:
        """It has no kernel; `start` watches it."""

    async def _follow_itself(self) -> None:
        command = self.far.command("gobgp", "monitor", "global", "rib", "--current")
        output = await start(*command)
        self._watching.append(output)
        self.watch = Watch(output, _gobgp_line)
        await self.watch.until(known=(THEIR_BLOCK,))

    def ask(self, *words: str) -> str:
        """Its answer to a command."""
        return self.far.run("gobgp", *words)

    def refresh(self) -> None:
        self.ask("neighbor", self.setup.ours, "softresetin")

    def shut(self, text: str) -> None:
        self.ask("neighbor", self.setup.ours, "shutdown", "--reason", text)

    def paths(self, prefix: str) -> str:
        return self.ask("global", "rib", "-a", "ipv6" if ":" in prefix else "ipv4", prefix)


DAEMONS: dict[str, type[Daemon]] = {one.name: one for one in (Bird, Frr, Gobgp)}
