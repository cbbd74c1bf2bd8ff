"""A program that calls a BGP speaker from where it runs: `python -m tests.scenes.bgp.impostor US AS ID TTL WHAT COUNT`.

WHAT is `silence`, `garbage`, `open` or `update`; COUNT calls are made at once, and a line says how each one ended.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from ipaddress import IPv4Address, ip_network

from bgp.wire import messages
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities, GracefulRestart
from bgp.wire.families import Family
from bgp.wire.iana import PORT
from bgp.wire.messages import Keepalive, Notification, Open, Update
from bgp.wire.nlri import pack

CONNECT_SECONDS, LISTEN_SECONDS = 1.0, 1.0
ANSWER_SECONDS = 5.0
"""How long who has sent an OPEN waits for more than an OPEN."""
STOLEN = ("0.0.0.0/1", "128.0.0.0/1")
ESTABLISHED = "established"
WIDE = Context(four_octet_as=True, internal=True)


def said(what: str, asn: int, router_id: IPv4Address) -> bytes:
    """All that is sent, in one go and before anything is answered."""
    families = frozenset({Family.IPV4})
    restart = GracefulRestart(120, restarting=True, families=families, forwarding_preserved=families)
    offer = Capabilities(four_octet_as=asn, graceful_restart=restart)
    stolen = Update((), PathAttributes(next_hop=router_id), tuple(pack(ip_network(one)) for one in STOLEN))
    opened = messages.encode(Open(asn, 90, router_id, offer), WIDE) + messages.encode(Keepalive(), WIDE)
    texts = {
        "silence": b"",
        "garbage": b"GET / HTTP/1.1\r\nHost: bgp\r\n\r\n",
        "open": opened,
        "update": opened + messages.encode(stolen, WIDE),
    }
    return texts[what]


async def call(us: str, ttl: int, data: bytes) -> str:
    """Make one call; how it ended."""
    family = socket.AF_INET6 if ":" in us else socket.AF_INET
    loop = asyncio.get_running_loop()
    with socket.socket(family) as sock:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        heard = b""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.sock_connect(sock, (us, PORT))
            async with asyncio.timeout(ANSWER_SECONDS if data else LISTEN_SECONDS):
                await loop.sock_sendall(sock, data)
                while some := await loop.sock_recv(sock, 4096):
                    heard += some
                    if messages.encode(Keepalive(), WIDE) in heard:
                        return ESTABLISHED
        except TimeoutError:
            return "no end" if heard else "no answer"
        except OSError as error:
            return error.strerror or str(error)
    for code, subcode in ((6, 7), (1, 1), (5, 2), (2, 2)):
        if messages.encode(Notification(code, subcode), WIDE) in heard:
            return f"{code}/{subcode}"
    return "closed"


async def main(us: str, asn: str, router_id: str, ttl: str, what: str, count: str) -> None:
    """Make all calls, and print how they ended."""
    data = said(what, int(asn), IPv4Address(router_id))
    for ended in await asyncio.gather(*(call(us, int(ttl), data) for _ in range(int(count)))):
        print(ended)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
