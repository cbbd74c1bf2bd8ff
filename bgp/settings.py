"""The settings of `python -m bgp`: a TOML file as values.

Promises: an unknown key, a wrong type and a wrong value are each one sentence that says where; nothing is guessed.
The keys are those of `SpeakerConfig` and `PeerConfig` where they have one of that name; README.md here lists them.
Does not know: files, sockets, what is done with the settings.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any, TypeVar

from bgp.peer_config import NextHopMode, PeerConfig, SpeakerConfig
from bgp.policy.origination import Origination
from bgp.wire.families import Address, Family, Prefix

MOST_PEERS = 1000
MOST_PREFIXES = 2_000_000

Read = Callable[[Any], Any]
_Made = TypeVar("_Made")


class Form(Enum):
    """How events are printed."""

    JSON = "json"
    TEXT = "text"


class Leaving(Enum):
    """What SIGTERM does."""

    DRAIN = "drain"
    """Peers remove our paths at once."""
    SILENCE = "silence"
    """Peers keep our paths for the restart time (RFC 4724)."""


class BadSettings(ValueError):
    """A mistake in the settings: what is wrong, and where in the file."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a whole file."""

    speaker: SpeakerConfig
    peers: Mapping[Address, PeerConfig]
    originations: Mapping[Prefix, Origination]
    form: Form = Form.JSON
    leaving: Leaving = Leaving.DRAIN
    text: str = ""
    """What the peers' operators read after a drain (RFC 9003)."""


def _a(kind: type, what: str) -> Read:
    def read(value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"must be {what}, not {value!r}")
        return value

    return read


_number, _flag, _text, _list = (
    _a(int, "a whole number"),
    _a(bool, "true or false"),
    _a(str, "a text in quotes"),
    _a(list, "a list"),
)


def _address(value: Any) -> Address:
    return ip_address(_text(value))


def _router_id(value: Any) -> IPv4Address:
    return IPv4Address(_text(value))


def _prefix(value: Any) -> Prefix:
    return ip_network(_text(value))


def _one_of(kind: type[Enum]) -> Read:
    def read(value: Any) -> Enum:
        for one in kind:
            if one.value == value:
                return one
        raise ValueError(f"must be one of {', '.join(str(one.value) for one in kind)}, not {value!r}")

    return read


def _families(value: Any) -> frozenset[Family]:
    known = {"ipv4": Family.IPV4, "ipv6": Family.IPV6}
    wrong = [one for one in _list(value) if one not in known]
    if wrong:
        raise ValueError(f"must be of ipv4, ipv6; not {wrong[0]!r}")
    return frozenset(known[one] for one in value)


SPEAKER_KEYS: dict[str, tuple[str, Read]] = {
    "as": ("asn", _number),
    "router_id": ("router_id", _router_id),
    "listen": ("listen_address", _address),
    "listen_second": ("second_address", _address),
    "port": ("port", _number),
    "restart_seconds": ("restart_seconds", _number),
    "restarting": ("restarting", _flag),
    "cluster_id": ("cluster_id", _router_id),
}
PEER_KEYS: dict[str, tuple[str, Read]] = {
    "address": ("address", _address),
    "as": ("asn", _number),
    "families": ("families", _families),
    "local_address": ("local_address", _address),
    "next_hop_mode": ("next_hop_mode", _one_of(NextHopMode)),
    **{name: (name, _flag) for name in ("passive", "route_reflector_client")},
    **{name: (name, _text) for name in ("description", "password")},
    **{
        name: (name, _number)
        for name in (
            *("port", "hold_seconds", "keepalive_seconds", "maximum_prefixes", "ttl_security_hops"),
            *("local_as", "allowed_local_as", "restart_seconds"),
        )
    },
}
OUTPUT_KEYS: dict[str, tuple[str, Read]] = {
    "output": ("form", _one_of(Form)),
    "on_sigterm": ("leaving", _one_of(Leaving)),
    "drain_text": ("text", _text),
}
ORIGINATE_KEYS = ("prefixes", "communities", "local_pref")


def _fields(table: Mapping[str, Any], known: Mapping[str, tuple[str, Read]], where: str) -> dict[str, Any]:
    """The arguments that the keys of a table stand for. Raises BadSettings."""
    found = {}
    for key in table.keys() & known.keys():
        name, read = known[key]
        try:
            found[name] = read(table[key])
        except ValueError as error:
            raise BadSettings(f"{where}{key}: {error}") from error
    return found


def _check_keys(table: Any, known: Collection[str], where: str) -> None:
    """Raises BadSettings for what is no table, or has a key that is not known."""
    if not isinstance(table, dict):
        raise BadSettings(f"{where}must be a table")
    for key in sorted(table.keys() - set(known)):
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
        raise BadSettings(f"{where}{key}: there is no such key; {hint}")


def _made(make: Callable[..., _Made], fields: dict[str, Any], needed: Mapping[str, str], where: str) -> _Made:
    for key, name in needed.items():
        if name not in fields:
            raise BadSettings(f"{where}{key}: is missing")
    try:
        return make(**fields)
    except ValueError as error:
        raise BadSettings(f"{where or 'settings: '}{error}") from error


def _peers(tables: Any, own: SpeakerConfig) -> dict[Address, PeerConfig]:
    if not isinstance(tables, list) or len(tables) > MOST_PEERS:
        raise BadSettings(f"peer: must be [[peer]] tables, at most {MOST_PEERS}")
    found: dict[Address, PeerConfig] = {}
    for number, table in enumerate(tables, 1):
        where = f"peer {number}: "
        _check_keys(table, PEER_KEYS, where)
        fields = _fields(table, PEER_KEYS, where)
        for local in own.addresses:
            if "address" in fields and local.version == fields["address"].version and int(local):
                fields.setdefault("local_address", local)
        peer = _made(PeerConfig, fields, {"address": "address", "as": "asn"}, where)
        if peer.address in found:
            raise BadSettings(f"{where}address: {peer.address} is there twice")
        found[peer.address] = peer
    return found


def _originations(whole: Mapping[str, Any]) -> dict[Prefix, Origination]:
    found: dict[Prefix, Origination] = {}
    plain = {"prefixes": whole.get("announce", [])}
    tables = whole.get("originate", [])
    if not isinstance(tables, list):
        raise BadSettings("originate: must be a list of tables")
    for number, table in enumerate([plain, *tables]):
        where = f"originate {number}: " if number else "announce: "
        _check_keys(table, ORIGINATE_KEYS, where)
        try:
            attributes = Origination.with_communities(
                map(_text, _list(table.get("communities", []))), table.get("local_pref")
            )
            for prefix in map(_prefix, _list(table.get("prefixes", []))):
                found[prefix] = attributes
        except ValueError as error:
            raise BadSettings(f"{where}{error}") from error
        if len(found) > MOST_PREFIXES:
            raise BadSettings(f"{where}more than {MOST_PREFIXES} prefixes")
    return found


def settings_of(text: str) -> Settings:
    """The settings that a TOML text gives. Raises BadSettings."""
    try:
        whole = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"not TOML: {error}") from error
    _check_keys(whole, [*SPEAKER_KEYS, *OUTPUT_KEYS, "announce", "originate", "peer"], "")
    needed = {"as": "asn", "router_id": "router_id", "listen": "listen_address"}
    speaker = _made(SpeakerConfig, _fields(whole, SPEAKER_KEYS, ""), needed, "")
    return Settings(
        speaker,
        _peers(whole.get("peer", []), speaker),
        _originations(whole),
        **_fields(whole, OUTPUT_KEYS, ""),
    )
