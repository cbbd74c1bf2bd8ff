"""Next hops that are on no link: nodes behind a router, in both versions, and a reflector's routes to a loopback."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabNode, Mode, gateway
from agent.lab.lifecycle import Lab
from tests.scenes.lab.lab_nodes import bgp_routes, ip_on, resource, tortie_on
from tests.scenes.lab.labs import MakeLab

pytestmark = pytest.mark.lab

FAR, LEARNED = "10.255.0.9", "10.88.0.0/24"
SETTLE_SECONDS = 30.0


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    """Nodes on two segments, of both versions of IP, without encapsulation."""
    made = make_lab("farhops", Mode.CROSS_SUBNET, nodes=2, pods=2, dual_stack=True)
    return lifecycle.change_mode(made, Mode.NONE)


def routes(node: LabNode, version: int) -> list[str]:
    """Where BGP's routes lead."""
    lines = ip_on(node, f"-{version} route show proto bird").splitlines()
    return sorted(line.strip() for line in lines if "blackhole" not in line)


def until(what: str, node: LabNode, version: int, words: str) -> None:
    def holds() -> bool:
        found = routes(node, version)
        return bool(found) and all(words in line for line in found)

    lab_processes.wait_for(what, holds, SETTLE_SECONDS)


def test_blocks_behind_a_router_have_routes_by_it_in_both_versions_and_follow_it_at_once(lab: Lab) -> None:
    """C09, C29, N2."""
    one, two = lab.plan.nodes
    assert one.segment != two.segment
    default6 = ip_on(one, "-6 route show default").split()
    router, router6 = str(gateway(lab.plan.segments[0])), default6[default6.index("via") + 1]
    until("an IPv4 route by the router", one, 4, f"via {router} dev eth0")
    until("an IPv6 route by the router", one, 6, f"via {router6} dev eth0")
    began = time.monotonic()
    ip_on(one, "route replace default via 172.26.0.2")
    until("the other router", one, 4, "via 172.26.0.2 dev eth0")
    taken = time.monotonic() - began
    print(f"the routes followed the default route after {taken * 1000:.0f} ms")
    assert taken < 5  # 40 s before; the rest is this machine's
    link_local = "fe80::1"
    ip_on(one, f"-4 route replace 0.0.0.0/0 via inet6 {link_local} dev eth0")
    until("a gateway of IPv6", one, 4, f"via inet6 {link_local} dev eth0")
    ip_on(one, f"route replace default via {router}")
    until("the router again", one, 4, f"via {router} dev eth0")


def test_a_reflectors_routes_to_a_loopback_go_where_the_kernel_leads(lab: Lab, tmp_path: Path) -> None:
    """C13."""
    node, own = lab.plan.nodes[0], gateway(lab.plan.segments[0])
    config = tmp_path / "bird.conf"
    config.write_text(
        f"""
        router id {own};
        protocol device {{}}
        protocol static {{ ipv4; route {LEARNED} blackhole; }}
        filter told {{ bgp_next_hop = {FAR}; accept; }}
        protocol bgp node1 {{
          local {own} as 64512; neighbor {node.interface.ip} as 64512; rr client;
          connect retry time 1; connect delay time 1; error wait time 1, 2;
          ipv4 {{ import all; export filter told; }};
        }}
        """
    )
    command = ["bird", "-f", "-c", str(config), "-s", str(tmp_path / "bird.ctl")]
    bird = subprocess.Popen(lab_processes.inside(lab.plan.fabric, command))
    peer = resource("BGPPeer", "reflector", node=node.name, peerIP=str(own), asNumber=64512)
    try:
        lifecycle.apply(lab.plan, peer)
        wanted = f"{LEARNED} via {own} dev eth0"
        lab_processes.wait_for("the route", lambda: wanted in "\n".join(routes(node, 4)), SETTLE_SECONDS)
        shown = bgp_routes(node, LEARNED)
        assert [(row["next_hop"], row["best"], row["resolved"]) for row in shown] == [
            (FAR, True, f"via {own} dev eth0")
        ]
        assert f"next hop {FAR}" in tortie_on(node, "routes", LEARNED)
        ip_on(node, f"route add unreachable {FAR}")
        lab_processes.wait_for("its end", lambda: LEARNED not in "\n".join(routes(node, 4)), SETTLE_SECONDS)
        said = f"BGP next hop {FAR}: it does not resolve: by the route `unreachable {FAR}` of this host"
        lab_processes.wait_for(
            "the trouble", lambda: said in json.dumps(lab_processes.agent_status(node)), SETTLE_SECONDS
        )
        assert "does not resolve" in tortie_on(node, "bgp", "routes", LEARNED)
        ip_on(node, f"route del unreachable {FAR}")
        lab_processes.wait_for("it again", lambda: wanted in "\n".join(routes(node, 4)), SETTLE_SECONDS)
    finally:
        bird.kill()
        bird.wait()
