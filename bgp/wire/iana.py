"""Numbers of the IANA BGP registries, under their registered names. Knows nothing else."""

from __future__ import annotations

from enum import IntEnum

AS_TRANS = 23456
"""RFC 6793: stands in two-octet fields for a four-octet AS number."""
PORT = 179
VERSION = 4


class MessageType(IntEnum):
    """RFC 4271 section 4.1, RFC 2918."""

    OPEN = 1
    UPDATE = 2
    NOTIFICATION = 3
    KEEPALIVE = 4
    ROUTE_REFRESH = 5


class Attribute(IntEnum):
    """Path attribute type codes (RFC 4271 section 5 and others)."""

    ORIGIN = 1
    AS_PATH = 2
    NEXT_HOP = 3
    MULTI_EXIT_DISC = 4
    LOCAL_PREF = 5
    ATOMIC_AGGREGATE = 6
    AGGREGATOR = 7
    COMMUNITIES = 8
    ORIGINATOR_ID = 9
    CLUSTER_LIST = 10
    MP_REACH_NLRI = 14
    MP_UNREACH_NLRI = 15
    EXTENDED_COMMUNITIES = 16
    AS4_PATH = 17
    AS4_AGGREGATOR = 18
    LARGE_COMMUNITY = 32


class Flag(IntEnum):
    """Attribute flags, RFC 4271 section 4.3."""

    OPTIONAL = 0x80
    TRANSITIVE = 0x40
    PARTIAL = 0x20
    EXTENDED_LENGTH = 0x10


class RefreshError(IntEnum):
    """Subcodes of ROUTE_REFRESH_MESSAGE, RFC 7313."""

    INVALID_LENGTH = 1


class CapabilityCode(IntEnum):
    """RFC 5492 and the registry it made."""

    MULTIPROTOCOL = 1
    ROUTE_REFRESH = 2
    EXTENDED_NEXT_HOP = 5
    EXTENDED_MESSAGE = 6
    GRACEFUL_RESTART = 64
    FOUR_OCTET_AS = 65
    ADD_PATH = 69
    ENHANCED_REFRESH = 70
    LONG_LIVED_GRACEFUL_RESTART = 71
    FQDN = 73


class Origin(IntEnum):
    """Values of ORIGIN (RFC 4271 section 5.1.1)."""

    IGP = 0
    EGP = 1
    INCOMPLETE = 2


class SegmentType(IntEnum):
    """AS_PATH segments, RFC 4271 section 4.3 and RFC 5065."""

    AS_SET = 1
    AS_SEQUENCE = 2
    AS_CONFED_SEQUENCE = 3
    AS_CONFED_SET = 4


class Error(IntEnum):
    """NOTIFICATION error codes."""

    MESSAGE_HEADER = 1
    OPEN_MESSAGE = 2
    UPDATE_MESSAGE = 3
    HOLD_TIMER_EXPIRED = 4
    FINITE_STATE_MACHINE = 5
    CEASE = 6
    ROUTE_REFRESH_MESSAGE = 7
    SEND_HOLD_TIMER_EXPIRED = 8


class HeaderError(IntEnum):
    """Subcodes of MESSAGE_HEADER."""

    NOT_SYNCHRONIZED = 1
    BAD_LENGTH = 2
    BAD_TYPE = 3


class OpenError(IntEnum):
    """Subcodes of OPEN_MESSAGE."""

    UNSPECIFIC = 0
    UNSUPPORTED_VERSION = 1
    BAD_PEER_AS = 2
    BAD_BGP_IDENTIFIER = 3
    UNSUPPORTED_PARAMETER = 4
    UNACCEPTABLE_HOLD_TIME = 6
    UNSUPPORTED_CAPABILITY = 7


class UpdateError(IntEnum):
    """Subcodes of UPDATE_MESSAGE."""

    MALFORMED_ATTRIBUTE_LIST = 1
    OPTIONAL_ATTRIBUTE = 9
    INVALID_NETWORK_FIELD = 10


class FsmError(IntEnum):
    """Subcodes of FINITE_STATE_MACHINE, RFC 6608."""

    UNEXPECTED_IN_OPEN_SENT = 1
    UNEXPECTED_IN_OPEN_CONFIRM = 2
    UNEXPECTED_IN_ESTABLISHED = 3


class Cease(IntEnum):
    """Subcodes of CEASE, RFC 4486, RFC 8538 and RFC 9384."""

    MAXIMUM_PREFIXES = 1
    ADMINISTRATIVE_SHUTDOWN = 2
    PEER_DECONFIGURED = 3
    ADMINISTRATIVE_RESET = 4
    CONNECTION_REJECTED = 5
    OTHER_CONFIGURATION_CHANGE = 6
    COLLISION_RESOLUTION = 7
    OUT_OF_RESOURCES = 8
    HARD_RESET = 9
    BFD_DOWN = 10


class WellKnown(IntEnum):
    """Communities with a meaning of their own, RFC 1997, 7999, 8326, 9494."""

    GRACEFUL_SHUTDOWN = 0xFFFF0000
    LLGR_STALE = 0xFFFF0006
    NO_LLGR = 0xFFFF0007
    BLACKHOLE = 0xFFFF029A
    NO_EXPORT = 0xFFFFFF01
    NO_ADVERTISE = 0xFFFFFF02
    NO_EXPORT_SUBCONFED = 0xFFFFFF03


Subcode = HeaderError | OpenError | UpdateError | FsmError | Cease | RefreshError
SUBCODES: dict[Error, type[Subcode]] = {
    Error.MESSAGE_HEADER: HeaderError,
    Error.OPEN_MESSAGE: OpenError,
    Error.UPDATE_MESSAGE: UpdateError,
    Error.FINITE_STATE_MACHINE: FsmError,
    Error.CEASE: Cease,
    Error.ROUTE_REFRESH_MESSAGE: RefreshError,
}
"""The subcodes of each error code that has some."""
CODES = {subcodes: code for code, subcodes in SUBCODES.items()}
"""The error code that a subcode belongs to."""
