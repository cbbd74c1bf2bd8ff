"""BGP messages: bytes to values and back (RFC 4271 section 4).

Promises: decoding raises only NotificationError; what an UPDATE's faults cost is already decided (RFC 7606).
Does not know: byte streams, sessions, timers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from bgp import blocks, capabilities, multiprotocol, nlri
from bgp.attributes import Context, PathAttributes
from bgp.blocks import Decoded
from bgp.capabilities import Capabilities
from bgp.errors import NotificationError, Treatment
from bgp.framing import HEADER_BYTES, LARGEST_MESSAGE, frame
from bgp.iana import AS_TRANS, VERSION, Attribute, Error, MessageType, OpenError, UpdateError
from bgp.nlri import Nlri


@dataclass(frozen=True, slots=True)
class Open:
    """RFC 4271 section 4.2; `asn` is the real one, whatever fits into two octets."""

    asn: int
    hold_seconds: int
    router_id: IPv4Address
    offer: Capabilities


@dataclass(frozen=True, slots=True)
class Update:
    """RFC 4271 section 4.3, IPv4 unicast."""

    withdrawn: tuple[Nlri, ...] = ()
    attributes: PathAttributes | None = None
    announced: tuple[Nlri, ...] = ()
    faults: tuple[str, ...] = ()
    """What was wrong and tolerated (RFC 7606), for the log."""

    @property
    def is_end_of_rib(self) -> bool:
        """RFC 4724 section 2: an UPDATE with nothing in it."""
        return not self.withdrawn and not self.announced and self.attributes is None


@dataclass(frozen=True, slots=True)
class Notification:
    """RFC 4271 section 4.5."""

    code: int
    subcode: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """RFC 4271 section 4.4."""


@dataclass(frozen=True, slots=True)
class RouteRefresh:
    """RFC 2918."""

    afi: int = 1
    safi: int = 1


Message = Open | Update | Notification | Keepalive | RouteRefresh


def encode(message: Message, context: Context) -> bytes:
    """The message as sent."""
    match message:
        case Open(asn, hold, router_id, offer):
            parameters = capabilities.encode(offer)
            short = asn if asn <= 0xFFFF else AS_TRANS
            head = struct.pack("!BHH4sB", VERSION, short, hold, router_id.packed, len(parameters))
            return frame(MessageType.OPEN, head + parameters)
        case Update(withdrawn, attributes, announced):
            gone = b"".join(withdrawn)
            block = blocks.encode(attributes, context) if attributes is not None else b""
            body = struct.pack("!H", len(gone)) + gone + struct.pack("!H", len(block)) + block
            return frame(MessageType.UPDATE, body + b"".join(announced))
        case Notification(code, subcode, data):
            room = LARGEST_MESSAGE - HEADER_BYTES - 2
            return frame(MessageType.NOTIFICATION, bytes([code, subcode]) + data[:room])
        case Keepalive():
            return frame(MessageType.KEEPALIVE, b"")
        case RouteRefresh(afi, safi):
            return frame(MessageType.ROUTE_REFRESH, struct.pack("!HBB", afi, 0, safi))


def decode(
    kind: MessageType, body: bytes, context: Context, interned: dict[bytes, Decoded] | None = None
) -> Message:
    """The message behind a body. Raises NotificationError.

    `interned` remembers attribute blocks by their bytes, so that equal blocks become one value; its owner bounds it.
    """
    match kind:
        case MessageType.OPEN:
            return _open(body)
        case MessageType.UPDATE:
            return _update(body, context, {} if interned is None else interned)
        case MessageType.NOTIFICATION:
            return Notification(body[0], body[1], body[2:])
        case MessageType.KEEPALIVE:
            return Keepalive()
        case MessageType.ROUTE_REFRESH:
            return RouteRefresh(int.from_bytes(body[:2], "big"), body[3])


def _open(body: bytes) -> Open:
    version, asn, hold, router_id, length = struct.unpack_from("!BHH4sB", body)
    if version != VERSION:
        raise NotificationError(
            Error.OPEN_MESSAGE,
            OpenError.UNSUPPORTED_VERSION,
            f"BGP version {version}",
            struct.pack("!H", VERSION),
        )
    parameters = body[10:]
    extended = length == 0xFF and parameters[:1] == b"\xff"
    if not extended and length != len(parameters):
        raise NotificationError(
            Error.OPEN_MESSAGE, OpenError.UNSPECIFIC, "the optional parameters have another length"
        )
    if hold in (1, 2):
        raise NotificationError(Error.OPEN_MESSAGE, OpenError.UNACCEPTABLE_HOLD_TIME, f"hold time {hold}")
    if not any(router_id):
        raise NotificationError(Error.OPEN_MESSAGE, OpenError.BAD_BGP_IDENTIFIER, "BGP identifier 0.0.0.0")
    offer = capabilities.decode(parameters)
    real = offer.four_octet_as if offer.four_octet_as is not None else asn
    if real == 0 or asn == 0:
        raise NotificationError(Error.OPEN_MESSAGE, OpenError.BAD_PEER_AS, "AS 0 (RFC 7607)")
    return Open(real, hold, IPv4Address(router_id), offer)


_MANDATORY = (Attribute.ORIGIN, Attribute.AS_PATH, Attribute.NEXT_HOP)
LONGEST_INTERNED = 1024
"""Octets of an attribute block worth remembering."""


def _malformed(why: str) -> NotificationError:
    return NotificationError(Error.UPDATE_MESSAGE, UpdateError.MALFORMED_ATTRIBUTE_LIST, why)


def _update(body: bytes, context: Context, interned: dict[bytes, Decoded]) -> Update:
    gone_end = 2 + int.from_bytes(body[:2], "big")
    if gone_end + 2 > len(body):
        raise _malformed("the withdrawn routes run past the message")
    block_end = gone_end + 2 + int.from_bytes(body[gone_end : gone_end + 2], "big")
    if block_end > len(body):
        raise _malformed("the path attributes run past the message")
    withdrawn = nlri.split(body[2:gone_end])
    announced = nlri.split(body[block_end:])
    block = body[gone_end + 2 : block_end]
    if not block and not announced:
        return Update(tuple(withdrawn))
    decoded = interned.get(block)
    if decoded is None:
        decoded = blocks.decode(block, context)
        if len(block) <= LONGEST_INTERNED:
            interned[block] = decoded
    return _treated(decoded, withdrawn, announced)


def _treated(decoded: Decoded, withdrawn: list[Nlri], announced: list[Nlri]) -> Update:
    """The UPDATE after RFC 7606: what is malformed but can be withdrawn is withdrawn."""
    faults, missing = list(decoded.faults), list(_MANDATORY) if announced else []
    attributes = decoded.attributes
    if decoded.unreach is not None:
        gone = multiprotocol.unreach(decoded.unreach)
        if isinstance(gone, str):
            faults.append(gone)
        else:
            withdrawn = withdrawn + gone
    if decoded.reach is not None:
        found = multiprotocol.reach(decoded.reach)
        if isinstance(found, str):
            faults.append(found)
        elif announced and found.next_hop != attributes.next_hop:
            faults.append(
                "NEXT_HOP and MP_REACH_NLRI give different next hops; those of the latter are refused"
            )
            withdrawn = withdrawn + found.prefixes
        else:
            missing = missing or ([Attribute.ORIGIN, Attribute.AS_PATH] if found.prefixes else [])
            announced = announced + found.prefixes
            attributes = replace(attributes, next_hop=found.next_hop)
    missing = [code for code in missing if code not in decoded.present]
    faults += [f"{code.name} is missing" for code in missing]
    if missing or decoded.treatment is Treatment.TREAT_AS_WITHDRAW:
        if not announced and not withdrawn:
            raise _malformed(
                "; ".join(faults)
            )  # RFC 7606 section 5.2: nothing to withdraw, so nothing is saved
        return Update(tuple(dict.fromkeys((*withdrawn, *announced))), None, (), tuple(faults))
    # A prefix in both fields is announced (RFC 4271 section 4.3).
    kept = set(announced)
    gone_for_good = tuple(prefix for prefix in withdrawn if prefix not in kept)
    only_withdraws = not announced and decoded.present <= {Attribute.MP_UNREACH_NLRI}
    return Update(gone_for_good, None if only_withdraws else attributes, tuple(announced), tuple(faults))
