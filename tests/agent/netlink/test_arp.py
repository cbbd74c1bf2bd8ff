"""Who else says on a link that an address is its own: packets and filter, and on real interfaces."""

from __future__ import annotations

import json
import select
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.netlink.arp import PACKET, ArpSocket, claimant, probe
from tests.fixtures.namespace import fresh_namespace, ip

OWN, OTHER = IPv4Address("172.26.0.11"), IPv4Address("172.26.0.12")
MAC = "02:00:00:00:00:01"
PATIENCE_MILLISECONDS = 5000


def packet(mac: str, sender: IPv4Address, operation: int = 2) -> bytes:
    octets = bytes.fromhex(mac.replace(":", ""))
    return PACKET.pack(1, 0x0800, 6, 4, operation, octets, sender.packed, bytes(6), OWN.packed)


@pytest.mark.parametrize("operation", [1, 2])
def test_whoever_names_the_address_as_its_own_claims_it_and_a_probe_does_not(operation: int) -> None:
    assert claimant(packet(MAC, OWN, operation), OWN) == MAC
    assert claimant(packet(MAC, OTHER, operation), OWN) is None
    assert claimant(probe(MAC, OWN), OWN) is None
    assert claimant(packet(MAC, OWN) + bytes(18), OWN) == MAC


@given(st.binary(max_size=64))
def test_any_octets_are_read(data: bytes) -> None:
    found = claimant(data, OWN)
    assert found is None or data[14:18] == OWN.packed


@pytest.fixture
def link() -> Iterator[None]:
    """Two ends of a link, eth0 with the address OWN here; the other end would answer for it, too."""
    with fresh_namespace():
        ip("link add eth0 type veth peer name far")
        for name in ("eth0", "far"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/arp_ignore").write_text("0")
            ip(f"link set {name} up")
        yield


@pytest.mark.usefixtures("link")
def test_a_probe_is_answered_by_another_machine_with_the_address_and_by_nobody_else() -> None:
    ip(f"address add {OWN}/32 dev lo")
    mac, own = (json.loads(ip(f"-j link show {name}"))[0]["address"] for name in ("far", "eth0"))
    listener = ArpSocket("eth0", OWN)
    try:
        assert listener.read() is None
        listener.send_probe(own)
        assert select.select([listener], [], [], PATIENCE_MILLISECONDS / 1000)[0]
        assert listener.read() == mac
        assert listener.read() is None
    finally:
        listener.close()
    deaf = ArpSocket("eth0", OTHER)
    try:
        deaf.send_probe(own)
        assert not select.select([deaf], [], [], 0.1)[0]
    finally:
        deaf.close()


@pytest.mark.usefixtures("link")
def test_an_interface_that_goes_is_an_oserror() -> None:
    listener = ArpSocket("eth0", OWN)
    try:
        ip("link delete eth0")
        with pytest.raises(OSError, match=r"down|No such"):
            listener.send_probe(MAC)
    finally:
        listener.close()
    with pytest.raises(OSError, match="No such device"):
        ArpSocket("eth0", OWN)
