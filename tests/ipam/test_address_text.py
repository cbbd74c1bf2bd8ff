"""One text for each address, on every Python that runs this."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam import codec
from ipam.address_text import rewritten, text_of
from ipam.keys import affinity_key, affinity_of_key, block_key, block_of_key
from ipam.model import Block, Handle, HandleId, NodeName

ADDRESSES = {
    "10.9.0.2": "10.9.0.2",
    "fd00:0:0::1": "fd00::1",
    "::": "::",
    "::1": "::1",
    "::10.9.0.2": "::a09:2",
    "::ffff:10.9.0.2": "::ffff:10.9.0.2",
    "::ffff:a09:2": "::ffff:10.9.0.2",
    "0:0:0:0:0:FFFF:0A09:0002": "::ffff:10.9.0.2",
    "::ffff:0:0": "::ffff:0.0.0.0",
    "::ffff:0:a09:2": "::ffff:0:a09:2",
    "::1:ffff:a09:2": "::1:ffff:a09:2",
    "fe80::1%eth0": "fe80::1%eth0",
    "::ffff:a09:2%eth0": "::ffff:10.9.0.2%eth0",
}
NETWORKS = {
    "10.9.0.0/26": "10.9.0.0/26",
    "fd00:0::/122": "fd00::/122",
    "::/0": "::/0",
    "::ffff:0:0/96": "::ffff:0.0.0.0/96",
    "::ffff:a09:0/122": "::ffff:10.9.0.0/122",
    "::ffff:10.9.0.0/122": "::ffff:10.9.0.0/122",
}


@pytest.mark.parametrize(("read", "written"), ADDRESSES.items(), ids=ADDRESSES)
def test_an_address_has_one_text(read: str, written: str) -> None:
    assert text_of(ip_address(read)) == written
    assert rewritten(read) == written
    assert rewritten(f"{read}/32") == written


@pytest.mark.parametrize(("read", "written"), NETWORKS.items(), ids=NETWORKS)
def test_a_network_has_one_text(read: str, written: str) -> None:
    assert text_of(ip_network(read)) == written


def test_an_address_keeps_its_length() -> None:
    assert text_of(ip_interface("fd00:0::5/64")) == "fd00::5/64"
    assert text_of(ip_interface("10.0.0.5/24")) == "10.0.0.5/24"
    assert text_of(ip_interface("::ffff:a09:5/120")) == "::ffff:10.9.0.5/120"


@pytest.mark.parametrize("text", ["", "banana", "10.0.0.256", "10.0.0.1/banana/32"])
def test_what_is_no_address_stays_as_it_is_up_to_a_slash(text: str) -> None:
    assert rewritten(text) == text.partition("/")[0]


@given(st.ip_addresses() | st.integers(0, 2**32 - 1).map(lambda low: IPv6Address(0xFFFF << 32 | low)))
def test_the_text_is_the_c_librarys_but_for_ipv4_compatible_addresses(
    address: IPv4Address | IPv6Address,
) -> None:
    assert ip_address(text_of(address)) == address
    if address.version == 4 or int(address) >> 32:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        assert text_of(address) == socket.inet_ntop(family, address.packed)


def test_a_block_whose_key_another_system_wrote_is_found_and_written_under_one_key() -> None:
    block = ip_network("::ffff:10.9.0.0/122")
    base = "/calico/ipam/v2"
    for text in ("::ffff:10.9.0.0-122", "::ffff:a09:0-122"):
        assert block_of_key(f"{base}/assignment/ipv6/block/{text}") == block
        assert affinity_of_key(f"{base}/host/node1/ipv6/block/{text}") == ("node1", block)
    assert block_key(block) == f"{base}/assignment/ipv6/block/::ffff:10.9.0.0-122"
    assert affinity_key(NodeName("node1"), block) == f"{base}/host/node1/ipv6/block/::ffff:10.9.0.0-122"
    empty = Block(block, NodeName("node1"), (None,) * 64, tuple(range(64)))
    assert b'"cidr":"::ffff:10.9.0.0/122"' in codec.encode_block(empty).replace(b" ", b"")
    assert b'"::ffff:10.9.0.0/122"' in codec.encode_handle(Handle(HandleId("a"), ((block, 1),)))
