"""As few MD5 keys as the passwords allow, and none that a peer would meet which is not its own."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.transport.md5_keys import key_prefixes, optmem_needed
from bgp.wire.families import Address


@pytest.mark.parametrize(
    ("passwords", "keys"),
    [
        ({}, {}),
        ({"10.0.0.1": ""}, {}),
        ({"10.0.0.1": "a"}, {"10.0.0.1/32": "a"}),
        ({"10.0.0.1": "a", "10.0.0.2": "a"}, {"10.0.0.0/30": "a"}),
        ({"10.0.0.1": "a", "10.0.0.2": "b"}, {"10.0.0.1/32": "a", "10.0.0.2/32": "b"}),
        ({"10.0.0.1": "a", "10.0.0.2": "", "10.0.0.3": "a"}, {"10.0.0.1/32": "a", "10.0.0.3/32": "a"}),
        (
            {"10.0.0.1": "a", "10.0.0.5": "a", "10.0.0.9": "b", "10.0.0.12": "b", "10.0.1.1": ""},
            {"10.0.0.0/29": "a", "10.0.0.8/29": "b"},
        ),
        ({"0.0.0.1": "a", "223.255.255.255": "a"}, {"0.0.0.0/0": "a"}),
        (
            {"10.0.0.1": "a", "10.0.0.2": "a", "fd00::1": "a", "fd00::2": "a"},
            {"10.0.0.0/30": "a", "fd00::/126": "a"},
        ),
        ({"fe80::1%lo": "a"}, {"fe80::1/128": "a"}),
    ],
)
def test_peers_that_share_a_password_share_a_key(passwords: dict[str, str], keys: dict[str, str]) -> None:
    found = key_prefixes({ip_address(peer): password for peer, password in passwords.items()})
    assert found == {ip_network(prefix): password for prefix, password in keys.items()}


def test_a_mesh_of_one_password_needs_one_key_however_large_it_is() -> None:
    mesh: dict[Address, str] = {IPv4Address(0x0A000000 + 7 * number): "x" for number in range(1, 5000)}
    assert len(key_prefixes(mesh)) == 1
    assert optmem_needed(1) < 20_480 < optmem_needed(140)


addresses = st.one_of(
    st.integers(0, 63).map(lambda number: IPv4Address(0x0A000000 + number)),
    st.integers(0, 0xFFFFFFFF).map(IPv4Address),
    st.integers(0, 63).map(lambda number: IPv6Address((0xFD << 120) + number)),
)


@given(st.dictionaries(addresses, st.sampled_from(["", "a", "b", "c"]), max_size=40))
def test_every_peer_lies_in_prefixes_of_its_own_password_alone(passwords: dict[Address, str]) -> None:
    keys = key_prefixes(passwords)
    for peer, password in passwords.items():
        assert [of for prefix, of in keys.items() if peer in prefix] == [password] * bool(password)
    assert len(keys) <= sum(map(bool, passwords.values()))
    for prefix in keys:
        assert any(peer in prefix for peer in passwords)
