"""The UPDATE message: what it withdraws and announces of each family, after RFC 7606 (RFC 4271 section 4.3, RFC 4760).

Promises: what an UPDATE's faults cost is already decided: the routes, an attribute, or the session (NotificationError).
What comes out is of families that were negotiated, whatever came in: only of those that both sides advertised do they
exchange anything (RFC 4760 section 8), so the rest is left unread, as BIRD does it, and said as a fault.
Does not know: sessions, RIBs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

from bgp.wire import attribute_codec, multiprotocol, nlri
from bgp.wire.attribute_codec import Decoded
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.errors import MalformedAttribute, NotificationError, Treatment
from bgp.wire.families import Address, Family, plain
from bgp.wire.iana import Attribute, UpdateError
from bgp.wire.multiprotocol import Reach
from bgp.wire.nlri import Nlri

LONGEST_INTERNED = 1024
"""Octets of an attribute block worth remembering."""


@dataclass(frozen=True, slots=True)
class Update:
    """What an UPDATE says of one family."""

    withdrawn: tuple[Nlri, ...] = ()
    attributes: PathAttributes | None = None
    announced: tuple[Nlri, ...] = ()
    faults: tuple[str, ...] = ()
    """What was wrong and tolerated (RFC 7606), for the log."""
    family: Family = Family.IPV4
    beside: Update | None = None
    """What the same message says of the other family; never sent so."""
    ignored: bool = False
    """Whether some of the message was of a family that was not negotiated, and not even read (RFC 4760 section 8)."""
    faulty: tuple[Nlri, ...] = ()
    """Those of `withdrawn` that were announced, with `attributes` as far as they could be read (treat-as-withdraw)."""
    why_faulty: str = ""

    @property
    def is_end_of_rib(self) -> bool:
        """RFC 4724 section 2: an UPDATE with nothing in it."""
        said = self.withdrawn or self.announced or self.faults or self.ignored
        return not said and self.attributes is None


def encode(update: Update, context: Context) -> bytes:
    """The octets of an UPDATE's body."""
    attributes = update.attributes
    block = attribute_codec.encode(attributes, context) if attributes is not None else b""
    # RFC 7606 section 5.1: what is of several families stands first in the block.
    withdrawn, announced = b"", b""
    if attributes is not None and update.announced and multiprotocol.needs_reach(update.family, attributes):
        block = multiprotocol.pack_reach(update.family, attributes, update.announced) + block
    if update.family is Family.IPV4:
        withdrawn = nlri.joined(update.withdrawn)
        if attributes is None or not multiprotocol.needs_reach(update.family, attributes):
            announced = nlri.joined(update.announced)
    elif update.withdrawn or not update.announced:
        block = multiprotocol.pack_unreach(update.family, update.withdrawn) + block
    fields = struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", len(block)) + block
    return fields + announced


def _malformed(why: str) -> NotificationError:
    return NotificationError(UpdateError.MALFORMED_ATTRIBUTE_LIST, why)


def decode(body: bytes, context: Context, interned: dict[bytes, Decoded]) -> Update:
    """The message behind a body. Raises NotificationError. `interned` is as in messages.decode.

    The fields that are no attributes are of IPv4 (RFC 4271 section 4.3). Where that was not negotiated nobody knows
    whether they have path identifiers, so their prefixes are not looked for.
    """
    gone_end = 2 + int.from_bytes(body[:2], "big")
    if gone_end + 2 > len(body):
        raise _malformed("the withdrawn routes run past the message")
    block_end = gone_end + 2 + int.from_bytes(body[gone_end : gone_end + 2], "big")
    if block_end > len(body):
        raise _malformed("the path attributes run past the message")
    block = body[gone_end + 2 : block_end]
    withdrawn: list[Nlri] = []
    announced: list[Nlri] = []
    if ipv4 := Family.IPV4 in context.families:
        split = nlri.split_identified if Family.IPV4 in context.path_ids else nlri.split
        withdrawn = split(body[2:gone_end])
        announced = split(body[block_end:])
        if not block and not announced:
            return Update(tuple(withdrawn))
    decoded = interned.get(block)
    if decoded is None:
        decoded = attribute_codec.decode(block, context)
        if len(block) <= LONGEST_INTERNED and decoded.reach is None and decoded.unreach is None:
            interned[block] = decoded
    decoding = _Decoding(decoded, context)
    if ipv4:
        decoding.take_fields(withdrawn, announced)
    elif gone_end > 2 or block_end < len(body):
        decoding.ignore("IPv4 prefixes, although the family was not agreed")
    elif not block:
        decoding.ignore("End-of-RIB of IPv4, although the family was not agreed")
    decoding.take_multiprotocol()
    return decoding.result()


@dataclass(slots=True)
class _Routes:
    """What an UPDATE says of one family, while it is decoded."""

    withdrawn: list[Nlri] = field(default_factory=list)
    announced: list[Nlri] = field(default_factory=list)
    reach: Reach | None = None
    """Where the next hop is in MP_REACH_NLRI."""
    faulty: list[Nlri] = field(default_factory=list)
    """What was announced and counts as withdrawn."""

    def update(self, family: Family, attributes: PathAttributes | None, why: str) -> Update:
        """A prefix in both fields is announced (RFC 4271 section 4.3)."""
        gone = tuple(self.withdrawn)
        if gone and self.announced:
            announced = set(self.announced)
            gone = tuple(prefix for prefix in gone if prefix not in announced)
        if self.reach is not None and attributes is not None:
            attributes = replace(attributes, next_hop=self.reach.next_hop, link_local=self.reach.link_local)
        faulty = tuple(dict.fromkeys(self.faulty)) if self.faulty else ()
        why = why if faulty else ""
        return Update(gone, attributes, tuple(self.announced), (), family, faulty=faulty, why_faulty=why)

    def treated_as_withdrawn(self, family: Family, attributes: PathAttributes, why: str) -> Update:
        """RFC 7606 section 2: what is announced counts as withdrawn."""
        hop = self.reach.next_hop if self.reach is not None else attributes.next_hop
        gone, faulty = dict.fromkeys((*self.withdrawn, *self.announced)), (*self.faulty, *self.announced)
        shown = replace(attributes, next_hop=hop) if faulty else None
        found = tuple(dict.fromkeys(faulty))
        return Update(tuple(gone), shown, family=family, faulty=found, why_faulty=why if found else "")


class _Decoding:
    """An UPDATE while RFC 7606 is applied to it: what is malformed but can be withdrawn is withdrawn."""

    def __init__(self, decoded: Decoded, context: Context) -> None:
        self._decoded = decoded
        self._context = context
        self._routes: dict[Family, _Routes] = {}
        self._faults = list(decoded.faults)
        self._needed: tuple[Attribute, ...] = ()
        """Attributes without which what is announced is withdrawn."""
        self._treatment = decoded.treatment
        self._ignored = False

    def _of(self, family: Family) -> _Routes:
        return self._routes.setdefault(family, _Routes())

    def take_fields(self, withdrawn: list[Nlri], announced: list[Nlri]) -> None:
        """Take the two fields that are no attributes, always of IPv4 (RFC 4271 section 4.3)."""
        self._routes[Family.IPV4] = _Routes(withdrawn, announced)
        if announced:
            self._needed = (Attribute.ORIGIN, Attribute.AS_PATH, Attribute.NEXT_HOP)
            if self._decoded.next_hop_fault:
                self._faults.append(self._decoded.next_hop_fault)
                self._treatment = Treatment.TREAT_AS_WITHDRAW

    def ignore(self, what: str) -> None:
        """Some of the message is of a family that was not negotiated."""
        self._faults.append(what)
        self._ignored = True

    def take_multiprotocol(self) -> None:
        """Take MP_UNREACH_NLRI and MP_REACH_NLRI; one of a family that was not negotiated is discarded."""
        decoded = self._decoded
        for take, value in ((self._take_unreach, decoded.unreach), (self._take_reach, decoded.reach)):
            if value is not None:
                try:
                    take(value)
                except MalformedAttribute as error:
                    self.ignore(str(error))

    def _take_unreach(self, value: bytes) -> None:
        family, prefixes = multiprotocol.unreach(value, self._context)
        self._of(family).withdrawn += prefixes

    def _take_reach(self, value: bytes) -> None:
        found = multiprotocol.reach(value, self._context)
        routes = self._of(found.family)
        if routes.announced and found.next_hop != self._decoded.attributes.next_hop:
            self._faults.append(
                "NEXT_HOP and MP_REACH_NLRI give different next hops; those of the latter are refused"
            )
            routes.withdrawn += found.prefixes
            routes.faulty += found.prefixes
        elif _no_host(found.next_hop):
            self._faults.append(f"the next hop {found.next_hop} in MP_REACH_NLRI cannot be a host's address")
            routes.withdrawn += found.prefixes
            routes.faulty += found.prefixes
        else:
            if found.prefixes and not self._needed:
                self._needed = (Attribute.ORIGIN, Attribute.AS_PATH)
            routes.announced += found.prefixes
            routes.reach = found

    def result(self) -> Update:
        """What the message comes to. Raises NotificationError where nothing less helps."""
        decoded = self._decoded
        missing = [code for code in self._needed if code not in decoded.present]
        faults = (*self._faults, *(f"{code.name} is missing" for code in missing))
        said = {family: one for family, one in self._routes.items() if one.announced or one.withdrawn}
        # An UPDATE that announces nothing and has no attribute but MP_UNREACH_NLRI only withdraws.
        attributes = None if decoded.present <= {Attribute.MP_UNREACH_NLRI} else decoded.attributes
        if attributes is not None and not said and not self._ignored and not decoded.reach:
            faults = (*faults, "path attributes without a prefix")
        if missing or self._treatment is Treatment.TREAT_AS_WITHDRAW:
            if not said and not self._ignored:
                raise _malformed("; ".join(faults))  # RFC 7606 section 5.2: nothing to withdraw saves nothing
            parts = [
                one.treated_as_withdrawn(family, decoded.attributes, "; ".join(faults))
                for family, one in said.items()
            ]
        elif said:
            parts = [
                one.update(family, decoded.attributes if one.announced else attributes, "; ".join(faults))
                for family, one in said.items()
            ]
        else:
            parts = []
        if not parts:
            family = max(self._routes, default=min(self._context.families))
            parts = [Update((), attributes, family=family)]
        if not faults and len(parts) == 1:
            return parts[0]
        beside = parts[1] if len(parts) > 1 else None  # there are at most two families
        return replace(parts[0], faults=faults, beside=beside, ignored=self._ignored)


def _no_host(address: Address) -> bool:
    one = plain(address)
    return one.is_multicast or one.is_unspecified or (one.version == 4 and one.is_reserved)
