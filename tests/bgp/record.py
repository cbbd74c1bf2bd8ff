"""Records what real daemons say to our speaker, for test_recordings: `python -m tests.bgp.record [NAME...]`, as root.

Each scene runs a daemon in a namespace of its own, lets it tell, change and leave, and writes its bytes and what our
speaker had learned at each mark to recordings/NAME.txt.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import structlog

from agent.clock import SystemClock
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.session.fsm import State
from bgp.transport.speaker import Speaker
from bgp.transport.tcp import Tcp
from bgp.wire.families import UNICAST, Address, Family
from bgp.wire.messages import RouteRefresh
from tests.interop.world import OURS, THEIRS, Far, Output, start, two_namespaces

FOLDER = Path(__file__).parent / "recordings"
OURS6, THEIRS6 = IPv6Address("fd09::1"), IPv6Address("fd09::2")
WAIT_SECONDS = 30
POLL_SECONDS = 0.5
LINE_OCTETS = 48


class Recorder(Speaker):
    """Our speaker, which writes down what it hears."""

    lines: list[str]
    heard: int = 0

    def arrived(self, tcp: Tcp, data: bytes) -> None:
        """As told by TCP."""
        self.heard += 1
        self.lines += [f"< {data[at : at + LINE_OCTETS].hex()}" for at in range(0, len(data), LINE_OCTETS)]
        super().arrived(tcp, data)

    def ask_for_refresh(self, peer: Address) -> None:
        """Have the daemon advertise everything again (RFC 2918), which our speaker itself never needs."""
        session, (tcp,) = self.instance.peers[peer].session, self._connections.values()
        assert session is not None
        for family in sorted(session.context.families):
            session.send(RouteRefresh(family, UNICAST))
        tcp.write(session.data_to_send())


@dataclass(slots=True)
class Scene:
    """One daemon and what it is made to do."""

    name: str
    version: tuple[str, ...]
    config: str
    command: Callable[[str, str], list[str]]
    """(configuration file, folder) -> the daemon's command line."""
    asn: int
    families: frozenset[Family]
    by_ipv6: bool = False
    quiet_seconds: float = 0.5
    """So long nothing came before a mark."""
    steps: list[tuple[str, Callable[[str], list[str]]]] = field(default_factory=list)
    """(name of the mark, command line made from the folder)."""


async def quiet(speaker: Recorder, seconds: float) -> None:
    """Nothing came for a while."""
    before = -1
    while before != speaker.heard:
        before = speaker.heard
        await asyncio.sleep(seconds)


async def played(scene: Scene, far: Far, folder: str) -> list[str]:
    """The recording's lines."""
    own: Address = OURS6 if scene.by_ipv6 else OURS
    theirs: Address = THEIRS6 if scene.by_ipv6 else THEIRS
    config = Path(folder) / "daemon.conf"
    config.write_text(scene.config)
    Path(folder).chmod(0o777)
    said = subprocess.run(scene.version, capture_output=True, text=True, check=False)
    version = (said.stdout + said.stderr).splitlines()[0]
    speaker_config = SpeakerConfig(64512, OURS, own, second_address=OURS if scene.by_ipv6 else OURS6)
    speaker = Recorder(speaker_config, SystemClock(), lambda: None, structlog.get_logger())
    names = ",".join(family.name for family in sorted(scene.families))
    speaker.lines = [
        f"daemon {version}",
        f"own {own}",
        f"peer {theirs}",
        f"as {scene.asn}",
        f"families {names}",
    ]
    peer = PeerConfig(
        theirs, scene.asn, passive=True, hold_seconds=30, local_address=own, families=scene.families
    )
    speaker.configure({theirs: peer})
    speaker.announce(frozenset())
    task = asyncio.create_task(speaker.run())
    daemon: Output | None = None
    try:
        daemon = await start(*far.command(*scene.command(str(config), folder)))
        for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
            if speaker.status()[0].state is State.ESTABLISHED:
                break
            await asyncio.sleep(POLL_SECONDS)
        await quiet(speaker, scene.quiet_seconds)
        mark(speaker, "told")
        for name, command in scene.steps:
            if name == "refreshed":
                speaker.ask_for_refresh(theirs)
            else:
                far.run(*command(folder))
            await quiet(speaker, scene.quiet_seconds)
            mark(speaker, name)
        return speaker.lines
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if daemon is not None:
            await daemon.end()


def mark(speaker: Recorder, name: str) -> None:
    """What is known now."""
    found = sorted(
        (str(prefix), str(one.next_hop), str(one.link_local or "-"))
        for prefix, one in speaker.learned.items()
    )
    speaker.lines += [f"mark {name}", *(f"= {' '.join(one)}" for one in found)]
    (status,) = speaker.status()
    speaker.lines.append(f"state {status.state.value}")
    if status.last_error:
        speaker.lines.append(f"error {status.last_error}")


BIRD = """
router id 10.9.0.2;
log stderr all;
protocol device {{ }}
protocol static four {{ ipv4; route 192.168.50.0/26 blackhole; route 192.168.51.64/26 blackhole; }}
protocol static six {{ ipv6; route fd50:1::/64 blackhole; route fd50:2::/122 blackhole; }}
filter tagged {{
  bgp_community.add((64512, 7)); bgp_large_community.add((64512, 1, 2)); bgp_med = 17; accept;
}}
protocol bgp node {{
  local {local} as {asn};
  neighbor {neighbour} as 64512;
  direct;
  hold time 30; connect delay time 1;
  graceful restart on;
  ipv4 {{ import all; export filter tagged; {four} }};
  ipv6 {{ import all; export filter tagged; {six} }};
}}
"""
FRR = """
hostname frr
router bgp 65002
 bgp router-id 10.9.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.9.0.1 remote-as 64512
 address-family ipv4 unicast
  network 192.168.60.0/26
  network 192.168.61.0/26
  neighbor 10.9.0.1 route-map tagged out
 exit-address-family
 address-family ipv6 unicast
  network fd60:1::/64
  neighbor 10.9.0.1 activate
  neighbor 10.9.0.1 route-map tagged out
 exit-address-family
route-map tagged permit 10
 set community 65002:9
 set metric 5
"""
GOBGP = """
[global.config]
  as = 64512
  router-id = "10.9.0.2"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.9.0.1"
    peer-as = 64512
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 90
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
"""


def bird(config: str, folder: str) -> list[str]:
    return ["bird", "-f", "-c", config, "-s", f"{folder}/ctl"]


def frr(config: str, folder: str) -> list[str]:
    where = ["-i", f"{folder}/pid", "--vty_socket", folder]
    return ["/usr/lib/frr/bgpd", "-n", "-S", "-Z", "-f", config, *where]


def gobgp(config: str, folder: str) -> list[str]:
    return ["gobgpd", "-f", config, "--api-hosts", "127.0.0.1:50051"]


def birdc(*words: str) -> Callable[[str], list[str]]:
    return lambda folder: ["birdc", "-s", f"{folder}/ctl", *words]


def vtysh(*lines: str) -> Callable[[str], list[str]]:
    said = [word for one in lines for word in ("-c", one)]
    return lambda folder: ["vtysh", "--vty_socket", folder, "-d", "bgpd", *said]


def cli(*words: str) -> Callable[[str], list[str]]:
    return lambda _: ["gobgp", *words]


BOTH = frozenset(Family)
BIRD_STEPS = [
    ("refreshed", birdc()),
    ("withdrawn", birdc("disable", "four")),
    ("left", birdc("disable", "node", '"back at noon"')),
]
SCENES = [
    Scene(
        "bird-ibgp-ipv4",
        ("bird", "--version"),
        BIRD.format(local="10.9.0.2", neighbour="10.9.0.1", asn=64512, four="", six=""),
        bird,
        64512,
        BOTH,
        steps=BIRD_STEPS,
    ),
    Scene(
        "bird-ebgp-ipv6-add-path",
        ("bird", "--version"),
        BIRD.format(
            local="fd09::2",
            neighbour="fd09::1",
            asn=65001,
            four="add paths on; next hop address 10.9.0.2;",
            six="add paths on;",
        ),
        bird,
        65001,
        BOTH,
        by_ipv6=True,
        steps=BIRD_STEPS,
    ),
    Scene(
        "frr-ebgp",
        ("/usr/lib/frr/bgpd", "--version"),
        FRR,
        frr,
        65002,
        BOTH,
        quiet_seconds=6.0,
        steps=[
            ("refreshed", vtysh()),
            (
                "withdrawn",
                vtysh(
                    "conf t", "router bgp 65002", "address-family ipv4 unicast", "no network 192.168.61.0/26"
                ),
            ),
            ("left", vtysh("conf t", "router bgp 65002", "neighbor 10.9.0.1 shutdown message back at noon")),
        ],
    ),
    Scene(
        "gobgp-ibgp",
        ("gobgpd", "--version"),
        GOBGP,
        gobgp,
        64512,
        BOTH,
        steps=[
            ("told four", cli("global", "rib", "add", "192.168.70.0/26", "community", "64512:9")),
            ("told six", cli("global", "rib", "add", "-a", "ipv6", "fd70:1::/64", "nexthop", "fd09::2")),
            ("refreshed", cli()),
            ("withdrawn", cli("global", "rib", "del", "192.168.70.0/26")),
            ("left", cli("neighbor", "10.9.0.1", "disable", "back at noon")),
        ],
    ),
]


def main(names: list[str]) -> None:
    """Play the scenes of these names, or all."""
    FOLDER.mkdir(exist_ok=True)
    for scene in SCENES:
        if names and scene.name not in names:
            continue
        folder = tempfile.mkdtemp()
        try:
            with two_namespaces() as far:
                for own, device, run in ((OURS6, "near0", run_here), (THEIRS6, "far0", far.run)):
                    run("ip", "address", "add", f"{own}/64", "dev", device, "nodad")
                lines = asyncio.run(played(scene, far, folder))
        finally:
            shutil.rmtree(folder)
        (FOLDER / f"{scene.name}.txt").write_text("\n".join(lines) + "\n")
        print(scene.name, len(lines), "lines")


def run_here(*command: str) -> Any:
    """A command in this thread's namespace."""
    return subprocess.run(command, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
