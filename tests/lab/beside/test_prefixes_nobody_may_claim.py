"""Prefixes that nobody may claim, whoever says so: a member of the mesh over BGP, a writer of etcd, a router beside."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabNode, Mode, etcd_endpoint, gateway
from agent.lab.lifecycle import Lab
from ipam.keys import affinity_key
from ipam.model import NodeName, Prefix
from tests.scenes.lab.lab_nodes import bgp_routes, ip_on, lost_pings, resource, tortie_on
from tests.scenes.lab.labs import MakeLab

pytestmark = pytest.mark.lab

SECONDS = 30.0
AS, ROUTER_AS = 64512, 65009
INSIDE, INSIDE6 = "192.168.200.0/26", "fd10:244::c00/122"
"""Blocks that lie in a pool: when their routes stand, all that was announced before them has been decided on."""
NOT_UNICAST = (
    *("127.0.0.0/8", "127.0.0.1/32", "224.0.0.0/4", "239.1.1.1/32", "240.0.0.0/4", "255.255.255.255/32"),
    *("0.0.0.0/32", "0.0.0.0/8", "169.254.0.0/16", "169.254.169.254/32"),
    *("::/128", "::1/128", "::ffff:0:0/96", "::ffff:7f00:1/128", "fe80::/10", "ff00::/8", "ff02::1/128"),
)
IN_NO_POOL = (
    *("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "172.16.0.0/12", "192.0.0.0/8", "8.8.8.8/32"),
    *("::/0", "::/1", "8000::/1", "2000::/3", "fd00::/8", "fd02::/64"),
)


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    """Two nodes that work, and a third whose place in the mesh somebody else takes."""
    found = make_lab("claims", Mode.NONE, nodes=3, pods=3, dual_stack=True)
    lab_processes.stop_agent(found.plan.nodes[2], signal.SIGKILL)
    return found


def table(node: LabNode) -> set[str]:
    """The node's routes of both versions of IP."""
    return {line.strip() for version in ("-4", "-6") for line in ip_on(node, f"{version} route").splitlines()}


def of_the_hosts(lab: Lab) -> list[str]:
    """Addresses of the datastore and of the nodes, and parts of the subnets that these are in."""
    subnets = [node.interface.network for node in lab.plan.nodes]
    parts = {str(next(iter(subnet.subnets(new_prefix=26)))) for subnet in subnets}
    parts6 = {str(next(iter(node.interface6.network.subnets(new_prefix=65)))) for node in lab.plan.nodes}
    hosts = {str(host) for node in lab.plan.nodes for host in (node.interface.ip, node.interface6.ip)}
    return sorted({*map(str, subnets), *parts, *parts6, *hosts, str(gateway(lab.plan.segments[0]))})


@contextmanager
def speaker(namespace: str, directory: Path, text: str) -> Iterator[None]:
    """`python -m bgp` there; it leaves without a word, as an attacker who has what he wanted."""
    config = directory / "speaker.toml"
    config.write_text(text)
    command = lab_processes.inside(namespace, [sys.executable, "-m", "bgp", str(config)])
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def member(lab: Lab, announced: list[str]) -> str:
    """The settings of a speaker in the place of the third node, with the sessions that this one had."""
    own = lab.plan.nodes[2]
    lines = [
        f'as = {AS}\nrouter_id = "{own.interface.ip}"\nlisten = "{own.interface.ip}"',
        f'listen_second = "{own.interface6.ip}"\nannounce = {json.dumps(announced)}\non_sigterm = "silence"',
    ]
    for node in lab.plan.nodes[:2]:
        lines.append(f'[[peer]]\naddress = "{node.interface.ip}"\nas = {AS}')
        lines.append(
            f'[[peer]]\naddress = "{node.interface6.ip}"\nas = {AS}\nfamilies = ["ipv6"]\n'
            f'local_address = "{own.interface6.ip}"'
        )
    return "\n".join(lines)


def own_blocks(node: LabNode) -> list[str]:
    """What the node's agent left behind when it was killed."""
    return sorted(line.split()[1] for line in table(node) if line.startswith("blackhole"))


def has_routes(node: LabNode, *prefixes: str) -> bool:
    lines = table(node)
    return all(any(prefix in line.split() for line in lines) for prefix in prefixes)


def test_a_member_of_the_mesh_is_believed_what_lies_in_pools_and_nothing_else(
    lab: Lab, tmp_path: Path
) -> None:
    victims = lab.plan.nodes[:2]
    theirs = [one for victim in victims for one in own_blocks(victim)]
    parts = [str(next(iter(ip_network(one).subnets()))) for one in theirs]
    wrong = [*NOT_UNICAST, *IN_NO_POOL, *of_the_hosts(lab), *theirs, *parts]
    before = {victim.name: table(victim) for victim in victims}
    right = [*own_blocks(lab.plan.nodes[2]), INSIDE, INSIDE6]
    with speaker(lab.plan.nodes[2].namespace, tmp_path, member(lab, [*wrong, *right])):
        for victim in victims:
            lab_processes.wait_for("the blocks", lambda: has_routes(victim, INSIDE, INSIDE6), SECONDS)  # noqa: B023
            came = {line.split()[0] for line in table(victim) - before[victim.name]}
            assert came == {INSIDE, INSIDE6}
        assert lost_pings(lab, rounds=1) == 0
        rows = [row for row in bgp_routes(victims[0]) if row["name"] == lab.plan.nodes[2].name]
        reasons = {row["prefix"]: row["reason"] for row in rows if not row["best"]}
        assert {ip_network(one) for one in wrong} == set(map(ip_network, reasons))
        assert reasons[theirs[0]] == f"refused: is the block of {victims[0].name}, by its claim"
        assert reasons["10.0.0.0/8"] == "refused: lies in no pool (from the node mesh)"
        assert reasons["224.0.0.0/4"].startswith("refused: multicast")
        about = f"peer {lab.plan.nodes[2].interface.ip} "
        lab_processes.wait_for(
            "the trouble", lambda: any(about in one for one in troubles(victims[0])), SECONDS
        )
        (trouble,) = (one for one in troubles(victims[0]) if about in one)
        assert "prefixes are refused" in trouble
    # Whoever takes the place next says the right things, and nobody complains any more.
    with speaker(lab.plan.nodes[2].namespace, tmp_path, member(lab, right)):
        lab_processes.wait_for(
            "the end of the trouble",
            lambda: not any("are refused" in one for victim in victims for one in troubles(victim)),
            SECONDS,
        )


def troubles(node: LabNode) -> list[str]:
    status = lab_processes.agent_status(node)
    return status["troubles"] if status is not None else []


# -- etcd -------------------------------------------------------------------------------------------------------------


def etcdctl(lab: Lab, *words: str) -> str:
    command = ["etcdctl", f"--endpoints={etcd_endpoint()}", *words]
    done = subprocess.run(
        lab_processes.inside(lab.plan.fabric, command), capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout


def claim(node: LabNode, prefix: Prefix) -> dict[str, str]:
    return {affinity_key(NodeName(node.name), prefix): '{"state":"confirmed"}'}


def endpoint(lab: Lab, node: LabNode, number: int, interface: str, address: str) -> dict[str, str]:
    """The endpoint of a pod of this node once more, for another container on another interface."""
    prefix = "/calico/resources/v3/projectcalico.org/workloadendpoints/"
    found = json.loads(etcdctl(lab, "get", "--prefix", prefix, "-w", "json"))["kvs"]
    decoded = [tuple(base64.b64decode(one[part]).decode() for part in ("key", "value")) for one in found]
    key, value = next(one for one in decoded if json.loads(one[1])["spec"]["node"] == node.name)
    document: dict[str, Any] = json.loads(value)
    name = f"{document['metadata']['name'][:-1]}{number}"
    document["metadata"]["name"] = name
    document["spec"] |= {"interfaceName": interface, "ipNetworks": [address], "containerID": f"c{number}"}
    return {f"{key.rpartition('/')[0]}/{name}": json.dumps(document)}


def test_a_writer_of_etcd_has_no_prefix_programmed_that_lies_in_no_pool_and_the_node_hears_the_correction(
    lab: Lab,
) -> None:
    node = lab.plan.nodes[0]
    etcd = gateway(lab.plan.segments[0])
    ip_on(node, "link add cali0123456789a type veth peer name odd0")
    ip_on(node, "link set cali0123456789a up")
    wrong = (
        claim(node, ip_network("172.26.0.0/26"))
        | claim(node, ip_network("0.0.0.0/0"))
        | claim(node, ip_network("128.0.0.0/1"))
        | claim(node, ip_network("127.0.0.0/26"))
        | claim(node, ip_network("fd26::/122"))
        | claim(node, ip_network("10.99.0.0/26"))
        | endpoint(lab, node, 1, "cali0123456789a", f"{etcd}/32")
        | endpoint(lab, node, 2, "eth0", "192.168.201.9/32")
        | endpoint(lab, node, 3, "cali0123456789a", "8.8.8.8/32")
        | endpoint(lab, node, 4, "cali/../eth0", "192.168.201.10/32")
    )
    right = claim(node, IPv4Network("192.168.201.0/26"))
    before, sysctls = table(node), switches(node)
    for key, value in (wrong | right).items():
        etcdctl(lab, "put", key, value)
    block = "192.168.201.0/26"
    lab_processes.wait_for("the blackhole", lambda: has_routes(node, block), SECONDS)
    assert {line.split(" proto")[0] for line in table(node) - before} == {f"blackhole {block}"}
    assert switches(node) == sysctls

    def named() -> list[str]:
        said = "\n".join(troubles(node))
        return [key for key in wrong if key in said]

    lab_processes.wait_for("a trouble for each", lambda: named() == [*wrong], SECONDS)
    assert "lies in no pool" in "\n".join(troubles(node))
    assert "not programmed: lies in no pool" in tortie_on(node, "routes", "10.99.0.0/26")
    for key in wrong | right:
        etcdctl(lab, "del", key)
    lab_processes.wait_for("the kernel as before", lambda: table(node) == before, SECONDS)
    lab_processes.wait_for("the end of them", lambda: named() == [], SECONDS)
    assert lost_pings(lab, rounds=1) == 0


def switches(node: LabNode) -> str:
    """What proxies and forwards on the node's own interface."""
    names = ("route_localnet", "proxy_arp", "forwarding")
    words = [f"net.ipv4.conf.eth0.{name}" for name in names] + ["net.ipv6.conf.eth0.accept_ra"]
    command = lab_processes.inside(node.namespace, ["sysctl", *words])
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# -- a router that a BGPPeer names ------------------------------------------------------------------------------------


def test_a_router_is_believed_anything_but_what_is_the_hosts_own(lab: Lab, tmp_path: Path) -> None:
    node = lab.plan.nodes[0]
    router, etcd = gateway(lab.plan.segments[0]), gateway(lab.plan.segments[0])
    part = str(next(iter(node.interface.network.subnets(new_prefix=26))))
    right = ["10.0.0.0/8", "172.16.0.0/12", "203.0.113.0/24"]
    wrong = [*NOT_UNICAST[:10], part, f"{etcd}/32", f"{node.interface.ip}/32"]
    announced = json.dumps([*wrong, "0.0.0.0/0", "0.0.0.0/1", *right])
    before = table(node)
    assert any(line.startswith("default via") for line in before)
    text = (
        f'as = {ROUTER_AS}\nrouter_id = "{router}"\nlisten = "{router}"\nannounce = {announced}\n'
        f'[[peer]]\naddress = "{node.interface.ip}"\nas = {AS}'
    )
    lifecycle.apply(
        lab.plan, resource("BGPPeer", "router", node=node.name, peerIP=str(router), asNumber=ROUTER_AS)
    )
    with speaker(lab.plan.fabric, tmp_path, text):
        lab_processes.wait_for("its routes", lambda: has_routes(node, *right), SECONDS)
        assert {line.split()[0] for line in table(node) - before} == set(right)
        reasons = {row["prefix"]: row["reason"] for row in bgp_routes(node, "--received", "router")}
        assert reasons[part].startswith("refused: inside the connected subnet")
        assert reasons["0.0.0.0/0"] == "in use"
        assert "conflict: " in tortie_on(node, "routes", "0.0.0.0/0")
