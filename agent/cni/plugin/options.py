"""What a network configuration and a runtime may ask of an attachment, read and checked; and the errors of doing so.

Promises: pure; an option that cannot be met is an error that names its key, never ignored. Of several sources of one
option the runtime's configuration comes first, then the pod's annotations, `args`, CNI_ARGS (CNI conventions).
Does not know: verbs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network
from typing import Any, TypeGuard

from agent.cni.plugin import pod_annotations
from ipam.address_text import masked_network, text_of
from ipam.allocation.sticky import LONGEST_RETENTION_SECONDS

CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
SMALLEST_MTU, LARGEST_MTU = 68, 65535
SMALLEST_MTU_6 = 1280
"""The smallest MTU of a link with IPv6 (RFC 8200, section 5)."""
MOST_VALID_ATTACHMENTS = 100_000
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
FAMILIES = (4, 6)
IPAM_TYPES = ("tortie-ipam", "calico-ipam")
"""What `ipam.type` may be: in Calico's configuration, too, its own IPAM means the cluster's pools."""
DURATION = re.compile(r"([0-9]{1,7})([smhd]?)")
DURATION_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_WORKLOAD = 128
LONGEST_POOL_NAME = 253
"""Kubernetes' bound of a name; a CIDR is shorter."""
MOST_POOLS, MOST_ROUTES = 64, 256
LONGEST_MESSAGE = 2000
"""Of an error: it stands in the runtime's log and in ours."""
LONGEST_SHOWN = 64
"""Characters of a wrong value in an error."""
VALID_ATTACHMENTS = "cni.dev/valid-attachments"


class Code(Enum):
    """Error codes of the specification, and from 100 on our own."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    BAD_ENVIRONMENT = 4
    IO_FAILURE = 5
    UNDECODABLE = 6
    INVALID_CONFIG = 7
    BAD_NAMESPACE = 8
    TRY_AGAIN = 11
    UNAVAILABLE = 50
    LIMITED = 51
    REFUSED = 100
    """IPAM refuses: no pool, no free address, an address in use."""
    DIFFERS = 101
    """CHECK found something that is not as ADD left it."""
    INTERNAL = 999


class CniError(Exception):
    """An error of the specification: code, sentence, details; the plugin answers it instead of a result."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(message[:LONGEST_MESSAGE])
        self.code, self.message, self.details = code, message[:LONGEST_MESSAGE], details[:LONGEST_MESSAGE]


def shown(value: object) -> str:
    """A wrong value as an error quotes it: printable, and not long."""
    text = ascii(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration and the runtime ask for."""

    ipv4_pools: tuple[str, ...] = ()
    """Names or CIDRs of the pools to assign IPv4 addresses from, the first one first; empty for any."""
    ipv6_pools: tuple[str, ...] = ()
    ipv4: bool = True
    ipv6: bool = False
    """Whether an address of each family is assigned."""
    mtu: int | None = None
    exact: tuple[IPv4Address | IPv6Address, ...] = ()
    """Addresses to assign, no others; one of a family at most."""
    mac: str | None = None
    forwarding: bool | None = None
    """Whether the pod forwards packets itself; None leaves the kernel's default."""
    lengths: Mapping[int, int] = field(default_factory=lambda: {4: 32, 6: 128})
    """IP version -> prefix length of the addresses in the result for another plugin."""
    gateways: Mapping[int, str] = field(default_factory=dict)
    routes: tuple[Mapping[str, Any], ...] = ()
    """For another plugin, which gets them as they are, like the gateways."""
    keep_seconds: int | None = None
    """How long a named workload's addresses are kept for it after its pod is gone."""
    workload: str | None = None
    """The workload's name, where no orchestrator gives one."""


def read_options(config: Mapping[str, Any], arguments: Mapping[str, str]) -> Options:
    """All options of a call; `arguments` are CNI_ARGS. Raises CniError."""
    ipam, annotations = require_own_ipam(config), _annotations(config)
    ipv4, ipv6 = _families(ipam, annotations)
    exact = _requested_addresses(config, annotations, arguments)
    if not (ipv4 or ipv6 or exact):
        raise _invalid("ipam: assign_ipv4 and assign_ipv6 are both off; a pod needs an address")
    forwarding = _object(config, "container_settings", "container_settings").get("allow_ip_forwarding")
    if forwarding is not None and not isinstance(forwarding, bool):
        raise _invalid("container_settings.allow_ip_forwarding: must be true or false")
    dual = ipv6 or any(address.version == 6 for address in exact)
    return Options(
        ipv4_pools=_pools(ipam, annotations, 4),
        ipv6_pools=_pools(ipam, annotations, 6),
        ipv4=ipv4,
        ipv6=ipv6,
        mtu=_number(config.get("mtu") or None, "mtu", SMALLEST_MTU_6 if dual else SMALLEST_MTU, LARGEST_MTU),
        exact=exact,
        mac=_requested_mac(config, annotations, arguments),
        forwarding=forwarding,
        lengths={
            4: _number(ipam.get("length"), "ipam.length", 1, 32) or 32,
            6: _number(ipam.get("length6"), "ipam.length6", 1, 128) or 128,
        },
        gateways=_gateways(ipam),
        routes=_routes(ipam),
        keep_seconds=_keep_seconds(config, arguments),
        workload=_workload(config, arguments),
    )


def require_own_ipam(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `ipam` of a configuration, which asks no other plugin for addresses. Raises CniError."""
    ipam = _object(config, "ipam", "ipam")
    kind = ipam.get("type")
    if kind is None or kind == "" or kind in IPAM_TYPES:
        return ipam
    raise _invalid(
        f"ipam.type: {shown(kind)} is not called: addresses come from the IPPools of the cluster. Make it "
        f"{' or '.join(IPAM_TYPES)}, and choose pools by ipam.ipv4_pools and ipam.ipv6_pools"
    )


def _invalid(message: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, message)


def _first(*sources: tuple[str, Any]) -> tuple[str, Any]:
    """The first of several sources of an option that gives a value, with its name; None when none does."""
    return next(((where, value) for where, value in sources if value is not None), ("", None))


def _cni_args(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return _object(_object(config, "args", "args"), "cni", "args.cni")


def _keep_seconds(config: Mapping[str, Any], arguments: Mapping[str, str]) -> int | None:
    """A network may keep the addresses of all its named workloads, a runtime those of one."""
    where, value = _first(
        ("args.cni.keep", _cni_args(config).get("keep")),
        ("CNI_ARGS: KEEP", arguments.get("KEEP")),
        ("ipam.keep", _object(config, "ipam", "ipam").get("keep")),
    )
    if value is None:
        return None
    usable = isinstance(value, str | int) and not isinstance(value, bool)
    found = DURATION.fullmatch(str(value)) if usable else None
    seconds = int(found[1]) * DURATION_UNITS[found[2]] if found is not None else -1
    if not 0 <= seconds <= LONGEST_RETENTION_SECONDS:
        raise _invalid(f"{where}: {shown(value)} is no duration from 0 to 30 days; write 90s, 10m, 2h or 7d")
    return seconds or None


def _workload(config: Mapping[str, Any], arguments: Mapping[str, str]) -> str | None:
    where, value = _first(
        ("args.cni.workload", _cni_args(config).get("workload") or None),
        ("CNI_ARGS: WORKLOAD", arguments.get("WORKLOAD") or None),
    )
    if value is None:
        return None
    if not isinstance(value, str) or not CONTAINER_ID.fullmatch(value) or len(value) > LONGEST_WORKLOAD:
        raise _invalid(
            f"{where}: {shown(value)} is no name: up to {LONGEST_WORKLOAD} letters, digits, '_', '.', '-'"
        )
    return value


def _object(within: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = within.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _invalid(f"{where}: must be an object")
    return found


def _wants(ipam: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """A truth value; Calico writes these as text."""
    words = {True: True, False: False, "true": True, "false": False}
    value = ipam.get(name, default)
    if not isinstance(value, bool | str) or value not in words:
        raise _invalid(f'ipam.{name}: must be "true" or "false"')
    return words[value]


def _annotations(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Calico's of the pod, if the runtime hands them over."""
    given = _object(
        _object(config, "runtimeConfig", "runtimeConfig"),
        pod_annotations.CAPABILITY,
        pod_annotations.CAPABILITY,
    )
    try:
        found = pod_annotations.calicos(given)
    except ValueError as error:
        raise _invalid(str(error)) from None
    for refused in pod_annotations.REFUSED:
        if refused in found:
            raise _invalid(
                f"annotation {pod_annotations.PREFIX}{refused}: no address is given that IPAM does not assign; "
                "take ipAddrs for one of a pool"
            )
    return found


def _families(ipam: Mapping[str, Any], annotations: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether an address of IPv4, of IPv6 is assigned."""
    given = annotations.get("ipFamilies")
    if given is None:
        return _wants(ipam, "assign_ipv4", default=True), _wants(ipam, "assign_ipv6", default=False)
    if not set(given) <= {"IPv4", "IPv6"}:
        raise _invalid(f'annotation {pod_annotations.PREFIX}ipFamilies: must be a list of "IPv4" and "IPv6"')
    return "IPv4" in given, "IPv6" in given


def _pools(ipam: Mapping[str, Any], annotations: Mapping[str, Any], version: int) -> tuple[str, ...]:
    """The pod's own choice comes before its network's."""
    where, pools = _first(
        (f"annotation {pod_annotations.PREFIX}ipv{version}pools", annotations.get(f"ipv{version}pools")),
        (f"ipam.ipv{version}_pools", ipam.get(f"ipv{version}_pools") or None),
    )
    if pools is None:
        return ()
    if not isinstance(pools, list | tuple) or not all(map(_is_pool, pools)) or len(pools) > MOST_POOLS:
        raise _invalid(f"{where}: must be a list of up to {MOST_POOLS} pool names or CIDRs")
    return tuple(map(_pool_word, pools))


def _pool_word(pool: str) -> str:
    """A name as it is; a CIDR masked and in its one form, as Calico reads it (net.ParseCIDR)."""
    try:
        found = masked_network(pool) if "/" in pool else None
    except ValueError:
        return pool
    return text_of(found) if found is not None else pool


def _is_pool(pool: object) -> TypeGuard[str]:
    return isinstance(pool, str) and len(pool) <= LONGEST_POOL_NAME and pool.isascii() and pool.isprintable()


def _number(value: object, where: str, least: int, most: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _invalid(f"{where}: {shown(value)} must be a number from {least} to {most}")
    return value


def _requested_addresses(
    config: Mapping[str, Any], annotations: Mapping[str, Any], arguments: Mapping[str, str]
) -> tuple[IPv4Address | IPv6Address, ...]:
    given = arguments.get("IP")
    where, value = _first(
        ("runtimeConfig.ips", _object(config, "runtimeConfig", "runtimeConfig").get("ips") or None),
        (f"annotation {pod_annotations.PREFIX}ipAddrs", annotations.get("ipAddrs")),
        ("args.cni.ips", _cni_args(config).get("ips") or None),
        ("CNI_ARGS: IP", given.split(",") if given else None),
    )
    if value is None:
        return ()
    few = isinstance(value, list) and len(value) <= len(FAMILIES)
    found = [_address(text, where) for text in value] if few else []
    if not found or len({address.version for address in found}) < len(found):
        raise _invalid(f"{where}: must be a list of at most one address of each family")
    return tuple(found)


def _address(text: object, where: str) -> IPv4Address | IPv6Address:
    try:
        if not isinstance(text, str) or "%" in text:  # a zone is this machine's, no part of a pod's address
            raise ValueError
        return ip_interface(text).ip
    except ValueError:
        raise _invalid(f"{where}: {shown(text)} is not an IP address") from None


def _gateways(ipam: Mapping[str, Any]) -> Mapping[int, str]:
    found: dict[int, str] = {}
    for version, name in ((4, "gateway"), (6, "gateway6")):
        if ipam.get(name):
            address = _address(ipam[name], f"ipam.{name}")
            if address.version != version:
                raise _invalid(f"ipam.{name}: {address} is not an IPv{version} address")
            found[version] = text_of(address)
    return found


def _requested_mac(
    config: Mapping[str, Any], annotations: Mapping[str, Any], arguments: Mapping[str, str]
) -> str | None:
    where, value = _first(
        ("runtimeConfig.mac", _object(config, "runtimeConfig", "runtimeConfig").get("mac") or None),
        (f"annotation {pod_annotations.PREFIX}hwAddr", annotations.get("hwAddr")),
        ("CNI_ARGS: MAC", arguments.get("MAC") or None),
    )
    if value is None:
        return None
    text = value.lower().replace("-", ":") if isinstance(value, str) else ""
    if not MAC.fullmatch(text) or int(text[:2], 16) & 1 or text == "00:00:00:00:00:00":
        raise _invalid(f"{where}: {shown(value)} is not the MAC address of one interface")
    return text


def _routes(ipam: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    routes = ipam.get("routes") or []
    if not isinstance(routes, list) or len(routes) > MOST_ROUTES:
        raise _invalid(f"ipam.routes: must be a list of up to {MOST_ROUTES}")
    for route in routes:
        try:
            if not isinstance(route["dst"], str):
                raise TypeError
            ip_network(route["dst"])
        except (TypeError, KeyError, ValueError):
            raise _invalid('ipam.routes: each needs a "dst" such as 0.0.0.0/0') from None
    return tuple(routes)


def valid_attachments(config: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """GC's list of what is in use; nothing is ever freed by a list that cannot be read whole. Raises CniError."""
    if VALID_ATTACHMENTS not in config:
        raise _invalid(f"{VALID_ATTACHMENTS}: GC needs the list of what is in use")
    listed = config[VALID_ATTACHMENTS] or []
    if not isinstance(listed, list) or len(listed) > MOST_VALID_ATTACHMENTS:
        raise _invalid(f"{VALID_ATTACHMENTS}: must be a list of up to {MOST_VALID_ATTACHMENTS}")
    try:
        pairs = frozenset((item["containerID"], item["ifname"]) for item in listed)
    except (TypeError, KeyError):
        pairs = frozenset({("", 0)})
    if not all(isinstance(container, str) and isinstance(name, str) for container, name in pairs):
        raise _invalid(f"{VALID_ATTACHMENTS}: each needs a containerID and an ifname, both text")
    return pairs
