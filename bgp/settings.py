"""The settings of `python -m bgp`: a TOML file as values.

Promises: an unknown key, a wrong type and a wrong value are each one sentence that says where; nothing is guessed.
The keys are those of `SpeakerConfig` and `PeerConfig` where they have one of that name; README.md here lists them.
Does not know: files, sockets, what is done with the settings.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
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
    output: Form = Form.JSON
    on_sigterm: Leaving = Leaving.DRAIN
    drain_text: str = ""
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


def _one_of(choices: Mapping[str, Any]) -> Read:
    def read(value: Any) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
        return choices[value]

    return read


def _values(kind: type[Enum]) -> Read:
    return _one_of({one.value: one for one in kind})


_family = _one_of({"ipv4": Family.IPV4, "ipv6": Family.IPV6})


def _families(value: Any) -> frozenset[Family]:
    return frozenset(map(_family, _list(value)))


SPEAKER_KEYS: dict[str, Read] = {
    "as": _number,
    "router_id": _router_id,
    "listen": _address,
    "listen_second": _address,
    "port": _number,
    "restart_seconds": _number,
    "restarting": _flag,
    "cluster_id": _router_id,
    "maximum_octets": _number,
    "maximum_paths": _number,
    "multipath_as_relax": _flag,
    "link_bandwidth_weights": _flag,
}
PEER_KEYS: dict[str, Read] = {
    "address": _address,
    "as": _number,
    "port": _number,
    "passive": _flag,
    "hold_seconds": _number,
    "keepalive_seconds": _number,
    "local_address": _address,
    "description": _text,
    "route_reflector_client": _flag,
    "maximum_prefixes": _number,
    "maximum_octets": _number,
    "password": _text,
    "ttl_security_hops": _number,
    "local_as": _number,
    "allowed_local_as": _number,
    "enforce_first_as": _flag,
    "next_hop_mode": _values(NextHopMode),
    "restart_seconds": _number,
    "long_lived_stale_seconds": _number,
    "families": _families,
    "paths_sent": _number,
}
OUTPUT_KEYS: dict[str, Read] = {"output": _values(Form), "on_sigterm": _values(Leaving), "drain_text": _text}
ORIGINATE_KEYS = ("prefixes", "communities", "local_pref")
FIELDS = {"as": "asn", "listen": "listen_address", "listen_second": "second_address"}
"""Key -> the configuration's field, where that has another name."""


def _fields(table: Mapping[str, Any], known: Mapping[str, Read], where: str) -> dict[str, Any]:
    """The arguments that the keys of a table stand for. Raises BadSettings."""
    found = {}
    for key in table.keys() & known.keys():
        try:
            found[FIELDS.get(key, key)] = known[key](table[key])
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


def _made(make: Callable[..., _Made], fields: dict[str, Any], needed: Iterable[str], where: str) -> _Made:
    for key in needed:
        if FIELDS.get(key, key) not in fields:
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
        peer = _made(PeerConfig, fields, ("address", "as"), where)
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
    needed = ("as", "router_id", "listen")
    speaker = _made(SpeakerConfig, _fields(whole, SPEAKER_KEYS, ""), needed, "")
    peers = _peers(whole.get("peer", []), speaker)
    return Settings(speaker, peers, _originations(whole), **_fields(whole, OUTPUT_KEYS, ""))
