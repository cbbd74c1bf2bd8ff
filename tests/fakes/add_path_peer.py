"""A peer that sends several paths to one prefix, told apart by identifiers (RFC 7911), and the instance beside it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

from bgp.instance import Instance
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.wire import messages, nlri
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities, GracefulRestart
from bgp.wire.families import Address, Family
from bgp.wire.messages import Keepalive, Open

OWN, PEER = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
BOTH = frozenset(Family)
WIDE = Context(four_octet_as=True, internal=True, families=BOTH)
PREFIX, PREFIX6 = "10.1.0.0/16", "fd10:1::/64"


def attributes(hop: int, local_pref: int = 100, family: Family = Family.IPV4) -> PathAttributes:
    own: Address = IPv4Address(f"10.0.0.{hop}") if family is Family.IPV4 else IPv6Address(f"fd00::{hop}")
    return PathAttributes(next_hop=own, local_pref=local_pref)


def identified(path_id: int, prefix: str) -> bytes:
    return path_id.to_bytes(4, "big") + nlri.pack(ip_network(prefix))


class AddPathPeer:
    """An instance of ours and a peer that puts an identifier before each prefix."""

    def __init__(self, **config: object) -> None:
        self.router = Instance(SpeakerConfig(64512, OWN, OWN), lambda: 0.5, 0.0)
        peer = replace(PeerConfig(PEER, 64512, passive=True, families=BOTH), **config)  # type: ignore[arg-type]
        self.router.configure({PEER: peer}, 0.0)
        self.router.announce([])
        self.connect()

    def connect(self, *, ids: bool = True) -> None:
        connection = self.router.accept(PEER)
        assert connection is not None
        self.connection = connection
        self.router.connected(connection, OWN, 0.0, outgoing=False)
        offer = Capabilities(
            families=BOTH,
            four_octet_as=64512,
            graceful_restart=GracefulRestart(120, families=BOTH, forwarding_preserved=BOTH),
            add_path_send=BOTH if ids else frozenset(),
        )
        for message in (Open(64512, 90, PEER, offer), Keepalive()):
            self.router.received(connection, messages.encode(message, WIDE), 0.0)
        self.router.flush(0.0)

    def say(self, *announced: bytes, attributes: PathAttributes | None = None, gone: bytes = b"") -> None:
        """An UPDATE; the fields are put together from raw octets, as no encoder of ours makes identifiers."""
        family = (
            Family.IPV6
            if attributes is not None and isinstance(attributes.next_hop, IPv6Address)
            else Family.IPV4
        )
        update = messages.Update((gone,) if gone else (), attributes, announced, family=family)
        self.router.received(self.connection, messages.encode(update, WIDE), 0.0)
        self.router.flush(0.0)

    def end(self, family: Family = Family.IPV4) -> None:
        self.router.received(self.connection, messages.encode(messages.Update(family=family), WIDE), 0.0)
        self.router.flush(0.0)

    def hops(self, prefix: str = PREFIX) -> list[str]:
        """The next hop of each path, the best one first."""
        network = ip_network(prefix)
        rib = self.router.ribs[Family.IPV4 if network.version == 4 else Family.IPV6]
        return [str(path.attributes.next_hop) for path in rib.candidates(nlri.pack(network))]
