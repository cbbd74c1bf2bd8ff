"""What the world hands in: damaged values, odd calls, half requests, pods that attack; none may cost an agent."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agent.dataplane.desired.desired_tunnels import VNI, vtep_mac
from agent.dataplane.kernel.calico_names import VXLAN_PORT
from agent.lab import lab_processes
from agent.lab.icmp import checksum
from agent.lab.pods import PLUGIN, PYTHON, pods
from agent.netlink.namespaces import entered
from ipam.model import NodeName
from tests.chaos.faults import ETCD, OUTSIDE, Fault, fault
from tests.chaos.world import STEADY, World, environment, pod_space

DAMAGES = (
    b"",
    b"null",
    b"[]",
    b"0",
    b'""',
    b"{",
    b'{"spec":null}',
    b'{"spec":{"bgp":null,"cidr":7}}',
    b"\xff\xfe\x00",
    b"[" * 5_000,
    b'{"a":' * 5_000,
    b'{"spec":{"cidr":"0.0.0.0/0","ipNetworks":["0.0.0.0/0"],"interfaceName":"eth0"}}',
    b'{"kind":"\xed\xa0\x80"}',
    b"1" * 100_000,
)
"""What stands in place of a value."""
PREFIXES = (
    "/calico/resources/v3/projectcalico.org/ippools/",
    "/calico/resources/v3/projectcalico.org/nodes/",
    "/calico/resources/v3/projectcalico.org/bgpconfigurations/",
    "/calico/resources/v3/projectcalico.org/bgppeers/",
    "/calico/ipam/v2/host/",
)
"""Where new keys are read by every node."""
ODD_CALLS = (
    b"",
    b"null",
    b"[]",
    b'{"cniVersion":[]}',
    b'{"cniVersion":"1.0.0","name":"k8s-pod-network","type":[]}',
    b'{"cniVersion":"1.0.0","name":"\\ud800","type":"tortie"}',
    b'{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"tortie","ipam":[]}',
    b'{"a":' * 5_000,
    b"\xff" * 1_000,
)
LINES = (b"", b"\n", b"GET", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"A" * 70_000)
CALL_SECONDS = 60
BGP_PORT = 179


@fault(ETCD, fails=True)
def a_value_is_damaged(world: World) -> Iterator[None]:
    """A value that every node or its own node reads is something else for a while."""
    listed = world.etcdctl("get", "--prefix", "--keys-only", "/calico/").decode(errors="replace").split()
    kinds = ("/ippools/", "/nodes/", "/ipam/v2/host/", f"-{STEADY}")
    key = world.chance.choice([one for one in listed if any(kind in one for kind in kinds)])
    damage = world.chance.choice(DAMAGES)
    before = world.etcdctl("get", key, "--print-value-only").removesuffix(b"\n")
    world.say(f"{key} becomes {damage[:40]!r}")
    world.put(key, damage)
    try:
        yield
    finally:
        world.put(key, before)


@fault(ETCD)
def a_key_appears(world: World) -> Iterator[None]:
    """A key of a name and a value that nobody expects, where every node reads."""
    name = world.chance.choice(("chaos", "a/b", "%2f", "ü" * 100, "-", "..", "node-9/ipv4/block/10.0.0.0-26"))
    key = world.chance.choice(PREFIXES) + name
    damage = world.chance.choice(DAMAGES)
    world.say(f"{key} appears: {damage[:40]!r}")
    world.put(key, damage)
    try:
        yield
    finally:
        world.etcdctl("del", key)


@fault(ETCD)
def a_claim_covers_the_underlay(world: World) -> Iterator[None]:
    """A node is said to own the network that the nodes live in."""
    node = world.any_node()
    network = world.chance.choice(("172.26.0.0-26", "0.0.0.0-0", "127.0.0.0-26", "224.0.0.0-26"))
    key = f"/calico/ipam/v2/host/{node.name}/ipv4/block/{network}"
    world.say(f"{key} appears")
    world.put(key, json.dumps({"state": "confirmed"}).encode())
    try:
        yield
    finally:
        world.etcdctl("del", key)


@fault(OUTSIDE)
def a_runtime_calls_oddly(world: World) -> Iterator[None]:
    """Calls of the plugin with what is no configuration, and with a FIFO for a namespace."""
    node = world.any_node()
    world.say(f"odd CNI calls on {node.name}")
    fifo = world.lab.plan.directory / "fifo"
    if not fifo.exists():
        os.mkfifo(fifo)
    for verb, data in zip(("ADD", "DEL", "CHECK"), world.chance.sample(ODD_CALLS, 3), strict=True):
        _call(world, node.name, verb, data, str(fifo))
    good = b'{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"tortie"}'
    _call(world, node.name, "DEL", good, str(fifo))
    yield


def _call(world: World, name: str, verb: str, data: bytes, netns: str) -> None:
    node = world.lab.plan.node(name)
    variables = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "chaos",
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(PLUGIN.parent),
    }
    subprocess.run(
        lab_processes.inside(node.namespace, [PYTHON, "-IS", str(PLUGIN)]),
        input=data,
        capture_output=True,
        env={**environment(node), **variables},
        timeout=CALL_SECONDS,
        check=False,
    )


@fault(OUTSIDE)
def sockets_are_misused(world: World) -> Iterator[None]:
    """Half requests and garbage on the sockets that others may connect to."""
    node = world.any_node()
    world.say(f"garbage on the sockets of {node.name}")
    held = []
    for name in ("agent.sock", "metrics.sock", "cni.sock"):
        for line in LINES:
            with suppress(OSError):
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(1)
                connection.connect(str(node.run / name))
                held.append(connection)
                connection.sendall(line)
    yield
    for connection in held:
        connection.close()


@fault(OUTSIDE)
def a_pod_attacks(world: World) -> Iterator[None]:
    """A pod speaks BGP and VXLAN to nodes, and bears others' addresses."""
    pod = world.chance.choice([one for one in pods(world.lab.plan) if one.name.startswith(STEADY)])
    world.say(f"{pod.name} attacks")
    space = pod_space(world.lab, pod)
    speakers = [_speak_bgp(space, str(node.interface.ip)) for node in world.nodes]
    victims = [one for one in pods(world.lab.plan) if one.name.startswith(STEADY) and one != pod]
    for node in world.nodes:
        _inject(space, node.name, str(node.interface.ip), victims[0].address)
    _spoof(space, victims[0].address, victims[-1].address)
    yield
    for speaker in speakers:
        speaker.close()


OPEN = b"\xff" * 16 + struct.pack("!HBBHHIB", 29, 1, 4, 64512, 90, 0xAC1A000B, 0)
"""RFC 4271 4.2: AS 64512, hold time 90, identifier 172.26.0.11, no capabilities."""


def _speak_bgp(space: Path, address: str) -> socket.socket:
    with entered(space):
        speaker = socket.socket()
    speaker.setblocking(False)
    with suppress(OSError):
        speaker.connect((address, BGP_PORT))
    with suppress(OSError):
        speaker.send(OPEN)
    return speaker


def _inject(space: Path, node: str, address: str, victim: str) -> None:
    """A VXLAN packet with another pod's source inside (RFC 7348)."""
    inner = _ip_packet("198.51.100.99", victim)
    mac = bytes.fromhex(vtep_mac(NodeName(node)).replace(":", ""))
    frame = struct.pack("!II", 0x08000000, VNI << 8) + mac + b"\x02" + bytes(5) + b"\x08\x00" + inner
    with entered(space), socket.socket(type=socket.SOCK_DGRAM) as sender, suppress(OSError):
        sender.sendto(frame, (address, VXLAN_PORT))


def _spoof(space: Path, source: str, destination: str) -> None:
    with entered(space):
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with sender, suppress(OSError):
        sender.sendto(_ip_packet(source, destination), (destination, 0))


def _ip_packet(source: str, destination: str) -> bytes:
    """An empty datagram to the discard port (RFC 791, 768)."""
    body = struct.pack("!HHHH", 9, 9, 8, 0)
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 17, 0) + ends
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + body


HOSTILE: tuple[Fault, ...] = (
    a_value_is_damaged,
    a_key_appears,
    a_claim_covers_the_underlay,
    a_runtime_calls_oddly,
    sockets_are_misused,
    a_pod_attacks,
)
