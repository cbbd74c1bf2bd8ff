"""What a pod with raw sockets may do, in each mode: neither be somebody else, nor a node, nor reach a node's loopback.

Each attack is proven by the filter's own counter and by nothing arriving; what is ordinary goes on.
"""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from agent.dataplane.desired.desired_tunnels import VNI, vtep_mac
from agent.lab import lab_processes, lifecycle
from agent.lab.fabric import make_namespace
from agent.lab.lab_plan import LabNode, Mode, gateway
from agent.lab.lifecycle import Lab
from agent.lab.pods import Pod, call_plugin, pod_named, remove_pod
from agent.netlink.namespaces import entered
from ipam.model import NodeName
from tests.scenes.lab import packets, traffic
from tests.scenes.lab.lab_nodes import lost_pings
from tests.scenes.lab.labs import MakeLab
from tests.scenes.lab.packets import IPIP, VXLAN_PORT, udp
from tests.scenes.lab.pinging import pinging
from tests.scenes.lab.traffic import Address, fabric, host, pod

pytestmark = pytest.mark.lab

MARKER = b"from-a-workload-that-may-not"
PORT, QUIET_SECONDS, MANY = 5353, 0.15, 100
DROP = re.compile(r'counter packets (\d+) bytes \d+ drop comment "([a-z-]+)"')


@pytest.fixture(scope="module", params=[Mode.NONE, Mode.VXLAN], ids=lambda mode: mode.value)
def lab(request: pytest.FixtureRequest, make_lab: MakeLab) -> Iterator[Lab]:
    """p1 and p3 are on node1, p2 is on node2; natOutgoing is on."""
    made = make_lab(f"f{request.param.value}", request.param, nodes=2, pods=3, dual_stack=True)
    yield made
    lifecycle.down(made.plan.name)


def on(node: LabNode, *words: str, text: str | None = None) -> str:
    command = lab_processes.inside(node.namespace, list(words))
    return subprocess.run(command, check=True, input=text, text=True, capture_output=True).stdout


def redirecting(node: LabNode, table: str, rule: str) -> None:
    """Somebody's translation of destinations, such as a Service's."""
    chain = f"type nat hook prerouting priority dstnat\n{rule}"
    on(node, "nft", "-f", "-", text=f"table ip {table} {{\nchain c {{\n{chain}\n}}\n}}\n")


def drops(node: LabNode) -> dict[str, int]:
    """Reason -> packets dropped, as nft(8) shows it."""
    found: dict[str, int] = {}
    for count, reason in DROP.findall(on(node, "nft", "list", "table", "inet", "tortie")):
        found[reason] = found.get(reason, 0) + int(count)
    return found


@contextmanager
def dropping(node: LabNode, *reasons: str, least: int = 1) -> Iterator[None]:
    """In the block the node drops at least so many packets for each of these reasons, and none for any other."""
    before = drops(node)
    yield
    found = {reason: count - before[reason] for reason, count in drops(node).items()}
    assert {reason for reason, count in found.items() if count} == set(reasons)
    assert all(found[reason] >= least for reason in reasons), found


@contextmanager
def nothing_on(node: LabNode) -> Iterator[None]:
    """No packet with the marker comes by the node's underlay interface."""
    with packets.wire(host(lab_of(node), node.name)) as eth0:
        yield
        assert packets.arrived([eth0], MARKER) == 0


def lab_of(node: LabNode) -> Lab:
    return lifecycle.find(node.directory.parent.name)


@contextmanager
def listener(
    space: Path, version: int, kind: int = socket.SOCK_DGRAM, protocol: int = 0, port: int = PORT
) -> Iterator[socket.socket]:
    """A socket of a namespace, whose timeout is how long nothing is waited for."""
    with entered(space):
        made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind, protocol)
    with made:
        if version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(("" if version == 4 else "::", port))
        made.settimeout(QUIET_SECONDS)
        yield made


@contextmanager
def hears_nothing(heard: socket.socket) -> Iterator[None]:
    yield
    with pytest.raises(TimeoutError):
        heard.recv(1 << 16)


def is_refused(space: Path, address: Address, port: int) -> None:
    """A TCP connection that is not even answered."""
    with traffic.opened(space, address.version, socket.SOCK_STREAM) as caller:
        caller.settimeout(QUIET_SECONDS)
        with pytest.raises(TimeoutError):
            caller.connect((str(address), port))


def addresses(lab: Lab, node: str) -> tuple[IPv4Address, IPv6Address]:
    found = lab.plan.node(node)
    return found.interface.ip, found.interface6.ip


def established(lab: Lab) -> set[str]:
    status = lab_processes.agent_status(lab.plan.node("node1"))
    assert status is not None
    return {peer["since"] for peer in status["peers"] if peer["state"] == "Established"}


def test_no_pod_speaks_bgp_as_its_node(lab: Lab) -> None:
    node1, before = lab.plan.node("node1"), established(lab)
    assert len(before) == 2
    for name in ("node2", "node1"):
        for address in addresses(lab, name):
            with dropping(node1, "bgp"):
                is_refused(pod(lab, "p1"), address, 179)
    service = "10.96.0.1"
    redirecting(node1, "service", f"ip daddr {service} tcp dport 80 dnat to {node1.interface.ip + 1}:179")
    with dropping(node1, "bgp"):
        is_refused(pod(lab, "p1"), IPv4Address(service), 80)
    on(node1, "nft", "delete", "table", "ip", "service")
    assert established(lab) == before


def test_no_pod_and_no_stranger_injects_into_vxlan(lab: Lab) -> None:
    by_name = {name: pod_named(lab.plan, name) for name in ("p1", "p2")}
    own, other = lab.plan.node("node1"), lab.plan.node("node2")
    inner = udp(IPv4Address("192.0.2.1"), by_name["p2"].ip, PORT, MARKER)
    frame = packets.vxlan(VNI, vtep_mac(NodeName("node2")), inner)
    with listener(pod(lab, "p2"), 4) as victim:
        with dropping(own, "vxlan"), nothing_on(other), hears_nothing(victim):
            packets.send(pod(lab, "p1"), udp(by_name["p1"].ip, other.interface.ip, VXLAN_PORT, frame))
        is_used = lab.mode is Mode.VXLAN
        with dropping(own, "vxlan-of-no-node" if is_used else "vxlan"):
            packets.send(pod(lab, "p1"), udp(by_name["p1"].ip, own.interface.ip, VXLAN_PORT, frame))
        reasons = ["vxlan-of-no-node"] if is_used else []
        with (
            dropping(other, *reasons),
            hears_nothing(victim),
            traffic.opened(fabric(lab), 4, socket.SOCK_DGRAM) as out,
        ):
            out.sendto(frame, (str(other.interface.ip), VXLAN_PORT))


def test_no_pod_sends_protocol_4_to_a_node(lab: Lab) -> None:
    p1, own, other = pod_named(lab.plan, "p1"), lab.plan.node("node1"), lab.plan.node("node2")
    inner = udp(IPv4Address("192.0.2.1"), pod_named(lab.plan, "p2").ip, PORT, MARKER)
    for node in (own, other):
        with (
            listener(host(lab, node.name), 4, socket.SOCK_RAW, IPIP) as ipip,
            dropping(own, "ipip"),
            nothing_on(other),
            hears_nothing(ipip),
        ):
            packets.send(pod(lab, "p1"), packets.ip(p1.ip, node.interface.ip, IPIP, inner))


def test_the_nodes_loopback_is_its_own_and_rewritten_traffic_reaches_it(lab: Lab) -> None:
    node, p1 = lab.plan.node("node1"), pod_named(lab.plan, "p1")
    to = IPv4Address("127.0.0.1")
    with listener(host(lab, "node1"), 4) as service, dropping(node, "loopback"), hears_nothing(service):
        packets.send(pod(lab, "p1"), udp(p1.ip, to, PORT, MARKER))
    # Of IPv6 the kernel takes no such packet from any device (RFC 4291 section 2.5.3).
    with listener(host(lab, "node1"), 6) as service, hears_nothing(service):
        packets.send(pod(lab, "p1"), udp(p1.ip6, IPv6Address("::1"), PORT, MARKER))
    redirecting(
        node, "hostport", f"ip daddr {node.interface.ip} udp dport {PORT + 1} dnat to 127.0.0.1:{PORT}"
    )
    with (
        listener(host(lab, "node1"), 4) as service,
        traffic.opened(pod(lab, "p1"), 4, socket.SOCK_DGRAM) as caller,
        dropping(node),
    ):
        caller.sendto(b"?", (str(node.interface.ip), PORT + 1))
        question, whom = service.recvfrom(16)
        service.sendto(b"!", whom)
        assert (question, caller.recv(16)) == (b"?", b"!")
    on(node, "nft", "delete", "table", "ip", "hostport")


def test_a_pod_sends_from_its_own_addresses_alone(lab: Lab) -> None:
    p1, p2, p3 = (pod_named(lab.plan, name) for name in ("p1", "p2", "p3"))
    own, other = lab.plan.node("node1"), lab.plan.node("node2")
    lies: list[Address] = [p2.ip, p3.ip, other.interface.ip, own.interface.ip]
    lies += [
        IPv4Address(text) for text in ("203.0.113.7", "127.0.0.1", "0.0.0.0", "169.254.9.9", "224.0.0.1")
    ]
    lies += [
        p2.ip6,
        p3.ip6,
        other.interface6.ip,
        IPv6Address("2001:db8::7"),
        IPv6Address("fe80::7"),
        IPv6Address("::"),
    ]
    with (
        listener(pod(lab, "p3"), 4) as neighbour,
        listener(pod(lab, "p3"), 6) as neighbour6,
        dropping(own, "spoofed-source", least=4 * len(lies)),
        nothing_on(other),
        hears_nothing(neighbour),
        hears_nothing(neighbour6),
    ):
        for lie in lies:
            targets: list[Address] = [p2.ip, p3.ip] if lie.version == 4 else [p2.ip6, p3.ip6]
            for target in targets:
                packets.send(pod(lab, "p1"), udp(lie, target, PORT, MARKER), 2)
    with dropping(own, "router-advertisement"):
        packets.send(pod(lab, "p1"), packets.router_advertisement(IPv6Address("fe80::7")))
    with listener(pod(lab, "p3"), 4) as neighbour, dropping(own):
        packets.send(pod(lab, "p1"), udp(p1.ip, p3.ip, PORT, b"its own"))
        assert neighbour.recv(16) == b"its own"


def test_not_even_the_first_packet_of_a_new_pod_is_another_ones(lab: Lab) -> None:
    own, other = lab.plan.node("node1"), lab.plan.node("node2")
    target = pod_named(lab.plan, "p2").ip
    made = Pod("flood", "node1", uuid.uuid4().hex)
    make_namespace(lab.plan.pod_namespace("flood"))
    lie = udp(pod_named(lab.plan, "p3").ip, target, PORT, MARKER)
    before = drops(own)["spoofed-source"]
    try:
        with (
            dropping(own, "spoofed-source"),
            nothing_on(other),
            packets.flooding(pod(lab, "flood"), lie),
        ):
            call_plugin(lab.plan, made, "ADD")
            lab_processes.wait_for("the flood", lambda: drops(own)["spoofed-source"] > before + MANY, 10)
    finally:
        remove_pod(lab.plan, made)


def test_what_is_ordinary_goes_on(lab: Lab) -> None:
    own = lab.plan.node("node1")
    p1, p2, p3 = (pod_named(lab.plan, name) for name in ("p1", "p2", "p3"))
    with dropping(own), dropping(lab.plan.node("node2")):
        assert lost_pings(lab, rounds=2) == 0
        for target in (p2, p3):
            for address in (target.ip, target.ip6):
                assert traffic.transfer(pod(lab, "p1"), pod(lab, target.name), address, 1000).intact
        for name in ("node1", "node2"):
            for address in addresses(lab, name):
                assert traffic.transfer(pod(lab, "p1"), host(lab, name), address, 1000).intact
            assert traffic.transfer(host(lab, name), pod(lab, "p1"), p1.ip, 1000).intact
        assert (
            traffic.datagram(pod(lab, "p1"), fabric(lab), gateway(lab.plan.segments[0]), 10)
            == own.interface.ip
        )
        # An error that a node answers with comes back.
        with traffic.opened(pod(lab, "p1"), 4, socket.SOCK_DGRAM) as caller:
            caller.connect((str(lab.plan.node("node2").interface.ip), 9))
            caller.send(b"?")
            with pytest.raises(ConnectionRefusedError):
                caller.recv(16)


def test_the_table_outlives_its_agent_and_settings_make_exceptions(lab: Lab, tmp_path: Path) -> None:
    """Killed, and started with other settings: nothing is lost, and the rules are those of before."""
    node = lab.plan.node("node1")

    def handles() -> list[str]:
        shown = on(node, "nft", "-a", "list", "table", "inet", "tortie")
        return re.findall(r"comment .*# handle \d+", shown)

    before, peer = handles(), lab.plan.node("node2").interface.ip
    with pinging(lab, tmp_path) as pings:
        lab_processes.stop_agent(node, signal.SIGKILL)
        with dropping(node, "spoofed-source"):
            packets.send(pod(lab, "p1"), udp(IPv4Address("203.0.113.7"), peer, PORT, MARKER))
        settings = {
            "TORTIE_WORKLOADS_PEERS": 'projectcalico.org/name == "p3"',
            "TORTIE_WORKLOADS_ROUTERS": 'projectcalico.org/name == "p3"',
        }
        lab_processes.start_agents([node], settings)
        lab_processes.wait_for_agents(lab.plan)
        assert not any(pings.lost().values())
    assert handles() == before
    ports = struct.pack("!HH", 34567, 179)
    with (
        dropping(node),
        packets.wire(host(lab, "node2")) as eth0,
        traffic.opened(pod(lab, "p3"), 4, socket.SOCK_STREAM) as caller,
        listener(host(lab, "node2"), 4) as far,
    ):
        caller.bind(("", 34567))
        caller.setblocking(False)
        caller.connect_ex((str(peer), 179))
        packets.send(pod(lab, "p3"), udp(IPv4Address("203.0.113.7"), peer, PORT, b"routed"))
        assert far.recv(16) == b"routed"
        # Its TTL is not that of a neighbour, so whether it is answered is the speaker's business.
        assert packets.arrived([eth0], ports) > 0
    with dropping(node, "bgp"):
        is_refused(pod(lab, "p1"), peer, 179)


def test_the_switch_takes_the_table_away_and_says_so(lab: Lab) -> None:
    node = lab.plan.node("node1")
    lab_processes.stop_agent(node, signal.SIGTERM)
    lab_processes.start_agents([node], {"TORTIE_WORKLOADS_FILTER": "false"})
    lab_processes.wait_for_agents(lab.plan)

    def said() -> str:
        status = lab_processes.agent_status(node)
        return str(status["workload_filter"]["state"]) if status is not None else ""

    lab_processes.wait_for(
        "the table to go", lambda: "inet tortie" not in on(node, "nft", "list", "tables"), 5
    )
    assert said() == "off (workloads.filter)"


@pytest.mark.ipip
def test_with_ipip_in_use_no_stranger_gets_into_it_or_the_kernel_says_that_it_cannot_see_to_that(
    make_lab: MakeLab,
) -> None:
    """A kernel without nftables, as the guest's, has everything but the filter, and a trouble that says so."""
    lab = make_lab("fipip", Mode.IPIP, nodes=2, pods=2)
    node, target = lab.plan.node("node1"), pod_named(lab.plan, "p1").ip
    status = lab_processes.agent_status(node)
    assert status is not None
    if "workload filter" in status["kernel"]["not_in_force"]:
        assert status["workload_filter"]["state"] == "not in force"
        assert any("speak BGP as this node" in text for text in status["troubles"])
        return
    inner = udp(IPv4Address("192.0.2.1"), target, PORT, MARKER)
    with (
        listener(pod(lab, "p1"), 4) as victim,
        dropping(node, "ipip-of-no-node"),
        hears_nothing(victim),
        entered(fabric(lab)),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, IPIP) as out,
    ):
        out.sendto(inner, (str(node.interface.ip), 0))
    assert lost_pings(lab) == 0
