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

from agent.netlink.arp import PACKET, ArpNews, ArpSocket, news_of, probe
from tests.fixtures.namespace import fresh_namespace, ip

OWN, OTHER = IPv4Address("172.26.0.11"), IPv4Address("172.26.0.12")
MAC = "02:00:00:00:00:01"
PATIENCE_MILLISECONDS = 5000


def packet(mac: str, sender: IPv4Address, operation: int = 2) -> bytes:
    octets = bytes.fromhex(mac.replace(":", ""))
    return PACKET.pack(1, 0x0800, 6, 4, operation, octets, sender.packed, bytes(6), OWN.packed)


@pytest.mark.parametrize("operation", [1, 2])
def test_whoever_names_the_address_as_its_own_claims_it(operation: int) -> None:
    for to_all in (False, True):
        assert news_of(packet(MAC, OWN, operation), OWN, to_all=to_all) == ArpNews(MAC)
        assert news_of(packet(MAC, OWN) + bytes(18), OWN, to_all=to_all) == ArpNews(MAC)


def test_a_request_to_all_machines_asks_for_the_address_and_one_to_this_one_or_an_answer_does_not() -> None:
    for asking in (packet(MAC, OTHER, 1), probe(MAC, OWN)):
        assert news_of(asking, OWN, to_all=True) == ArpNews(None)
        assert news_of(asking, OWN, to_all=False) is None
        assert news_of(asking, IPv4Address("172.26.0.13"), to_all=True) is None
    assert news_of(packet(MAC, OTHER, 2), OWN, to_all=True) is None


@given(st.binary(max_size=64), st.booleans())
def test_any_octets_are_read(data: bytes, to_all: bool) -> None:
    found = news_of(data, OWN, to_all=to_all)
    assert found is None or OWN.packed in (data[14:18], data[24:28])


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
        assert listener.read() == ArpNews(mac)
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
def test_who_asks_all_machines_is_heard_and_who_asks_for_another_address_is_not() -> None:
    listener, asking = ArpSocket("eth0", OWN), ArpSocket("far", OWN)
    another = ArpSocket("far", OTHER)
    try:
        another.send_probe(MAC)
        asking.send_probe(MAC)
        assert select.select([listener], [], [], PATIENCE_MILLISECONDS / 1000)[0]
        assert (listener.read(), listener.read()) == (ArpNews(None), None)
    finally:
        for one in (listener, asking, another):
            one.close()


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
