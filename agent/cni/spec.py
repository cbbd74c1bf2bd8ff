"""The CNI specification: environment and standard input become a request, a result the JSON of the version asked for.

Promises: pure; everything wrong is a CniError with the specification's code and one sentence. Versions 0.1.0 to 1.1.0.
Does not know: how a pod is attached.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address
from typing import Any

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
DEFAULT_VERSION = "0.2.0"
"""What a configuration without cniVersion means."""
MOST_STDIN_BYTES = 1 << 20
CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
LONGEST_CONTAINER_ID = 253
LONGEST_INTERFACE_NAME = 15
"""IFNAMSIZ of linux/if.h, less the closing zero."""
SMALLEST_MTU, LARGEST_MTU = 68, 65535


class Code(Enum):
    """Error codes of the specification."""

    INCOMPATIBLE_VERSION = 1
    BAD_ENVIRONMENT = 4
    IO_FAILURE = 5
    UNDECODABLE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN = 11
    REFUSED = 100
    """The plugin's own: IPAM said no."""
    INTERNAL = 999


class CniError(Exception):
    """What the plugin answers instead of a result."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


class Verb(Enum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    VERSION = "VERSION"


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a runtime."""

    verb: Verb
    version: str
    network: str = ""
    container_id: str = ""
    netns: str = ""
    """Path of the pod's namespace; empty where it is gone already."""
    interface: str = ""
    pod: str | None = None
    namespace: str | None = None
    pools: tuple[str, ...] = ()
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What an attachment got."""

    host_interface: str
    host_mac: str
    interface: str
    mac: str
    netns: str
    mtu: int
    addresses: tuple[IPv4Address, ...] = field(default=())


def version_of(stdin: bytes) -> str:
    """The version that even an error must be told in; the default where it cannot be read."""
    try:
        raw = json.loads(stdin)
        found = raw.get("cniVersion", DEFAULT_VERSION)
    except (ValueError, AttributeError, UnicodeDecodeError):
        return DEFAULT_VERSION
    return found if found in VERSIONS else VERSIONS[-1]


def parse(environment: Mapping[str, str], stdin: bytes) -> Request:
    """The request. Raises CniError."""
    try:
        verb = Verb(environment.get("CNI_COMMAND", ""))
    except ValueError:
        word = environment.get("CNI_COMMAND", "")
        raise CniError(
            Code.BAD_ENVIRONMENT, f"CNI_COMMAND {word!r} is not one of ADD, DEL, VERSION"
        ) from None
    if verb is Verb.VERSION:
        return Request(verb, version_of(stdin))
    missing = [name for name in NEEDED[verb] if not environment.get(name)]
    if missing:
        raise CniError(Code.BAD_ENVIRONMENT, f"{verb.value} needs {', '.join(missing)} in its environment")
    _check_environment(environment)
    config = _config(stdin)
    arguments = _arguments(environment.get("CNI_ARGS", ""))
    ipam = config.get("ipam") if isinstance(config.get("ipam"), dict) else {}
    assert isinstance(ipam, dict)
    return Request(
        verb,
        config.get("cniVersion", DEFAULT_VERSION),
        network=_network(config),
        container_id=environment["CNI_CONTAINERID"],
        netns=environment.get("CNI_NETNS", ""),
        interface=environment["CNI_IFNAME"],
        pod=arguments.get("K8S_POD_NAME") or None,
        namespace=arguments.get("K8S_POD_NAMESPACE") or None,
        pools=_pools(ipam),
        mtu=_mtu(config),
    )


NEEDED = {
    Verb.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Verb.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
}


def _check_environment(environment: Mapping[str, str]) -> None:
    container, interface = environment["CNI_CONTAINERID"], environment["CNI_IFNAME"]
    if not CONTAINER_ID.fullmatch(container) or len(container) > LONGEST_CONTAINER_ID:
        raise CniError(
            Code.BAD_ENVIRONMENT, f"CNI_CONTAINERID {container[:64]!r}: letters, digits, '_', '.', '-' only"
        )
    bad = (
        len(interface) > LONGEST_INTERFACE_NAME or interface in (".", "..") or re.search(r"[/:\s]", interface)
    )
    if bad:
        raise CniError(
            Code.BAD_ENVIRONMENT,
            f"CNI_IFNAME {interface[:64]!r}: up to 15 characters without '/', ':', blank",
        )


def _config(stdin: bytes) -> dict[str, Any]:
    if len(stdin) > MOST_STDIN_BYTES:
        raise CniError(Code.UNDECODABLE, f"the network configuration is larger than {MOST_STDIN_BYTES} bytes")
    try:
        config = json.loads(stdin)
    except (ValueError, UnicodeDecodeError) as error:
        raise CniError(
            Code.UNDECODABLE, "the network configuration on standard input is not JSON", str(error)
        ) from error
    if not isinstance(config, dict):
        raise CniError(Code.UNDECODABLE, "the network configuration on standard input is not a JSON object")
    version = config.get("cniVersion", DEFAULT_VERSION)
    if version not in VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} is not supported",
            f"supported: {', '.join(VERSIONS)}",
        )
    return config


def _network(config: Mapping[str, Any]) -> str:
    name = config.get("name")
    if not isinstance(name, str) or not CONTAINER_ID.fullmatch(name):
        raise CniError(
            Code.INVALID_CONFIG, f"name: {name!r} is not a network's name (letters, digits, '_', '.', '-')"
        )
    return name


def _pools(ipam: Mapping[str, Any]) -> tuple[str, ...]:
    pools = ipam.get("ipv4_pools") or ()
    if not isinstance(pools, list | tuple) or not all(isinstance(pool, str) for pool in pools):
        raise CniError(Code.INVALID_CONFIG, "ipam.ipv4_pools: must be a list of pool names or CIDRs")
    return tuple(pools)


def _mtu(config: Mapping[str, Any]) -> int | None:
    mtu = config.get("mtu") or None
    if mtu is None:
        return None
    if not isinstance(mtu, int) or not SMALLEST_MTU <= mtu <= LARGEST_MTU:
        raise CniError(
            Code.INVALID_CONFIG, f"mtu: {mtu!r} must be a number from {SMALLEST_MTU} to {LARGEST_MTU}"
        )
    return mtu


def _arguments(text: str) -> dict[str, str]:
    """CNI_ARGS: `K=V;K=V`. Unknown keys are tolerated, as runtimes of Kubernetes expect."""
    found = {}
    for pair in text.split(";"):
        key, equals, value = pair.partition("=")
        if pair and not equals:
            raise CniError(Code.BAD_ENVIRONMENT, f"CNI_ARGS: {pair[:64]!r} is not of the form KEY=VALUE")
        found[key] = value
    return found


def render(result: Result, version: str) -> bytes:
    """The result in the form of a version."""
    if version in ("0.1.0", "0.2.0"):
        ip4 = {"ip": f"{result.addresses[0]}/32"} if result.addresses else {}
        return json.dumps({"cniVersion": version, "ip4": ip4, "dns": {}}).encode()
    interfaces: list[dict[str, object]] = [
        {"name": result.host_interface, "mac": result.host_mac},
        {"name": result.interface, "mac": result.mac, "sandbox": result.netns},
    ]
    if version == "1.1.0":
        for interface in interfaces:
            interface["mtu"] = result.mtu
    ips: list[dict[str, object]] = [
        {"address": f"{address}/32", "interface": 1} for address in result.addresses
    ]
    if version in ("0.3.0", "0.3.1", "0.4.0"):  # 1.0.0 dropped the family
        for ip in ips:
            ip["version"] = "4"
    return json.dumps({"cniVersion": version, "interfaces": interfaces, "ips": ips, "dns": {}}).encode()


def render_error(error: CniError, version: str) -> bytes:
    """The error as the specification has it; on standard output, with a non-zero exit."""
    raw = {"cniVersion": version, "code": error.code.value, "msg": error.message, "details": error.details}
    return json.dumps({name: value for name, value in raw.items() if value != ""}).encode()


def render_versions(version: str) -> bytes:
    """The answer to VERSION."""
    return json.dumps({"cniVersion": version, "supportedVersions": list(VERSIONS)}).encode()
