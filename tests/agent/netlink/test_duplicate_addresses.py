"""An IPv6 address that another machine on the link has is found, on the kernel of a fresh namespace."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address
from pathlib import Path

from agent.netlink.duplicate_addresses import duplicate_addresses
from agent.netlink.netlink_socket import NETLINK_ROUTE, Subscription, readable
from agent.netlink.rtnetlink import RTNLGRP_IPV6_IFADDR
from tests.fixtures.namespace import fresh_namespace, ip

PATIENCE_SECONDS = 20


async def test_an_address_that_another_machine_answers_for_is_a_duplicate_and_one_that_nobody_has_is_none() -> (
    None
):
    with fresh_namespace():
        Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("1")
        ip("link add eth0 type veth peer name far")
        for name in ("eth0", "far"):
            ip(f"link set {name} up")
        ip("addr add fd26::b/64 dev far nodad")
        changes = Subscription(NETLINK_ROUTE, (RTNLGRP_IPV6_IFADDR,))
        ip("addr add fd26::b/64 dev eth0")
        ip("addr add fd26::c/64 dev eth0")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not duplicate_addresses():
                await readable([changes])
                while changes.read():
                    pass
        assert duplicate_addresses() == {IPv6Address("fd26::b"): "eth0"}
        changes.close()
