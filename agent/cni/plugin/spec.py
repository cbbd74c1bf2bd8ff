"""The CNI specification: environment and standard input become a request; everything wrong is an error with its code.

Promises: pure; every fault is a CniError with the specification's code and one sentence that names what is wrong.
Nothing is read that is longer or deeper than a runtime could mean, and what becomes a name elsewhere (a file's, a
device's, an etcd key's) has only letters, digits, '_', '.', '-'. Of two keys of one name in an object the last one
counts, as in Go. Versions 0.1.0 to 1.1.0, all verbs. Does not know: how a pod is attached, what a result looks like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from math import isfinite
from typing import Any

from agent.cni.plugin.ignored_keys import IgnoredKey, ignored_keys
from agent.cni.plugin.options import (
    CONTAINER_ID,
    IPAM_TYPES,
    CniError,
    Code,
    Options,
    read_options,
    require_own_ipam,
    shown,
    valid_attachments,
)
from agent.cni.plugin.pod_annotations import CAPABILITY

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
DEFAULT_VERSION = "0.1.0"
"""What a configuration without cniVersion means, or with an empty one (libcni's version.ConfigDecoder)."""
MOST_STDIN_BYTES = 1 << 20
MOST_PREVIOUS_BYTES = 256 << 10
"""Of prevResult: the answer to an ADD repeats it, and the shims take 1 MiB of an answer."""
DEEPEST = 64
"""Levels of objects and lists in a configuration; a runtime's have about six."""
LONGEST_CONTAINER_ID = 253
LONGEST_NAME = 253
"""Of a network, a pod, a namespace: Kubernetes' bound."""
LONGEST_PATH = 4095
"""PATH_MAX of linux/limits.h, less the closing zero."""
LONGEST_ARGUMENTS = 8191
"""Of CNI_ARGS; the shims leave out what is longer."""
LONGEST_INTERFACE_NAME = 15
"""IFNAMSIZ of linux/if.h, less the closing zero."""
PLUGIN_TYPE, IPAM_TYPE = "tortie", "tortie-ipam"
PLUGIN_TYPES = frozenset({PLUGIN_TYPE, "calico"})


NO_OPTIONS = Options()


class Verb(Enum):
    """The verbs of the specification, as CNI_COMMAND has them."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    STATUS = "STATUS"
    GC = "GC"
    VERSION = "VERSION"


SINCE = {Verb.CHECK: "0.4.0", Verb.STATUS: "1.1.0", Verb.GC: "1.1.0"}
"""The version that brought a verb; a configuration of an older one must not use it."""
NEEDED = {
    Verb.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Verb.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Verb.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
}
"""Verb -> the environment that it cannot do without."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a runtime, read and checked."""

    verb: Verb
    version: str
    network: str = ""
    container_id: str = ""
    netns: str = ""
    """Path of the pod's namespace; empty where it is gone already."""
    interface: str = ""
    pod: str | None = None
    namespace: str | None = None
    options: Options = NO_OPTIONS
    addresses_only: bool = False
    """Called as another plugin's IPAM: addresses are all that is asked for."""
    previous: Mapping[str, Any] | None = None
    """prevResult: what the plugins before this one did, or on CHECK what ADD answered."""
    valid: frozenset[tuple[str, str]] = frozenset()
    """GC: (container id, interface) of every attachment that is still in use."""
    ignored: tuple[IgnoredKey, ...] = ()
    """ADD, STATUS: what the configuration asks for that is not done."""

    @property
    def kubernetes_pod(self) -> tuple[str, str] | None:
        """(namespace, name) of the pod; None for a container that is none of Kubernetes."""
        if self.namespace is None or self.pod is None:
            return None
        return self.namespace, self.pod


def version_of(stdin: bytes) -> str:
    """The version that even an error must be written in; the default where it cannot be read."""
    try:
        found = _config(stdin).get("cniVersion") or DEFAULT_VERSION
    except CniError:
        return DEFAULT_VERSION
    return found if found in VERSIONS else VERSIONS[-1]


def pod_uid(environment: Mapping[str, str]) -> str:
    """The pod's uid as the runtime says it in CNI_ARGS (containerd and CRI-O do); empty when it does not."""
    words = environment.get("CNI_ARGS", "")[:LONGEST_ARGUMENTS].split(";")
    found = next((word.partition("=")[2] for word in words if word.startswith("K8S_POD_UID=")), "")
    return found if len(found) <= LONGEST_NAME and found.isascii() and found.isprintable() else ""


def with_annotations(stdin: bytes, annotations: Mapping[str, str]) -> bytes:
    """A configuration that `parse` has read, with these annotations of the pod in place of what the runtime gave."""
    config = dict(_config(stdin))
    runtime = config.get("runtimeConfig")
    given = {**(runtime if isinstance(runtime, dict) else {}), CAPABILITY: dict(annotations)}
    return json.dumps({**config, "runtimeConfig": given}).encode()


def parse(environment: Mapping[str, str], stdin: bytes) -> Request:
    """A call's environment and standard input as a request. Raises CniError."""
    word = environment.get("CNI_COMMAND", "")
    try:
        verb = Verb(word)
    except ValueError:
        known = ", ".join(verb.value for verb in Verb)
        raise CniError(Code.BAD_ENVIRONMENT, f"CNI_COMMAND {shown(word)} is not one of {known}") from None
    if verb is Verb.VERSION:
        return Request(verb, version_of(stdin))
    _check_environment(verb, environment)
    config = _config(stdin)
    version = _version(verb, config)
    if verb in (Verb.STATUS, Verb.GC):
        status = verb is Verb.STATUS
        return Request(
            verb,
            version,
            network=_network(config),
            # What every ADD would be refused for is said before there is a pod.
            options=read_options(config, {}) if status else NO_OPTIONS,
            addresses_only=_addresses_only(config),
            valid=frozenset() if status else valid_attachments(config),
            ignored=tuple(ignored_keys(config)) if status else (),
        )
    if verb is Verb.CHECK:
        require_own_ipam(config)
    arguments = _arguments(environment.get("CNI_ARGS", ""))
    return Request(
        verb,
        version,
        network=_network(config),
        container_id=environment["CNI_CONTAINERID"],
        netns=_namespace_path(verb, environment.get("CNI_NETNS", "")),
        interface=environment["CNI_IFNAME"],
        pod=_name_in(arguments, "K8S_POD_NAME"),
        namespace=_name_in(arguments, "K8S_POD_NAMESPACE"),
        # A DEL must succeed whatever else the configuration says.
        options=read_options(config, arguments) if verb is Verb.ADD else NO_OPTIONS,
        addresses_only=_addresses_only(config),
        previous=_previous(verb, config),
        ignored=tuple(ignored_keys(config)) if verb is Verb.ADD else (),
    )


def _check_environment(verb: Verb, environment: Mapping[str, str]) -> None:
    missing = [name for name in NEEDED.get(verb, ()) if not environment.get(name)]
    if missing:
        raise CniError(Code.BAD_ENVIRONMENT, f"{verb.value} needs {', '.join(missing)} in its environment")
    if verb not in NEEDED:
        return
    container, interface = environment["CNI_CONTAINERID"], environment["CNI_IFNAME"]
    if not CONTAINER_ID.fullmatch(container) or len(container) > LONGEST_CONTAINER_ID:
        raise CniError(
            Code.BAD_ENVIRONMENT,
            f"CNI_CONTAINERID {shown(container)}: up to {LONGEST_CONTAINER_ID} letters, digits, '_', '.', '-' only",
        )
    bad = (
        not (interface.isascii() and interface.isprintable())
        or len(interface) > LONGEST_INTERFACE_NAME
        or interface in (".", "..")
        or re.search(r"[/:%\s]", interface)  # the kernel puts a number in the place of %d
    )
    if bad:
        raise CniError(
            Code.BAD_ENVIRONMENT,
            f"CNI_IFNAME {shown(interface)}: up to 15 printable characters of ASCII without '/', ':', '%', blank",
        )


def _namespace_path(verb: Verb, path: str) -> str:
    """The path of the pod's namespace; a DEL needs none, so what cannot be one is as good as none."""
    if len(path.encode(errors="replace")) <= LONGEST_PATH and path.isprintable():
        return path
    if verb is Verb.DEL:
        return ""
    raise CniError(
        Code.BAD_ENVIRONMENT, f"CNI_NETNS {shown(path)}: a printable path of up to {LONGEST_PATH} bytes"
    )


def _name_in(arguments: Mapping[str, str], word: str) -> str | None:
    """The name of a pod or namespace in CNI_ARGS."""
    name = arguments.get(word)
    if not name:
        return None
    if not CONTAINER_ID.fullmatch(name) or len(name) > LONGEST_NAME:
        raise CniError(
            Code.BAD_ENVIRONMENT,
            f"CNI_ARGS: {word} {shown(name)}: up to {LONGEST_NAME} letters, digits, '_', '.', '-' only",
        )
    return name


_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = b"[]{}"
_OTHERS = bytes(octet for octet in range(256) if octet not in _BRACKETS)
_STEP = {octet: 1 if octet in b"[{" else -1 for octet in _BRACKETS}


def depth(text: bytes) -> int:
    """How deep objects and lists lie in each other in a text of JSON, without parsing it."""
    brackets = _STRING.sub(b"", text).translate(None, _OTHERS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _config(stdin: bytes) -> dict[str, Any]:
    if len(stdin) > MOST_STDIN_BYTES:
        raise CniError(Code.UNDECODABLE, f"the network configuration is larger than {MOST_STDIN_BYTES} bytes")
    if depth(stdin) > DEEPEST:
        raise CniError(
            Code.UNDECODABLE, f"the network configuration is nested more than {DEEPEST} levels deep"
        )
    try:
        config = json.loads(stdin, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CniError(
            Code.UNDECODABLE, "the network configuration on standard input is not JSON", str(error)
        ) from error
    if not isinstance(config, dict):
        raise CniError(Code.UNDECODABLE, "the network configuration on standard input is not a JSON object")
    return config


def _version(verb: Verb, config: Mapping[str, Any]) -> str:
    version = config.get("cniVersion")
    if version is None or version == "":
        version = DEFAULT_VERSION
    if version not in VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {shown(version)} is not supported",
            f"supported: {', '.join(VERSIONS)}",
        )
    since = SINCE.get(verb, VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(
            Code.INCOMPATIBLE_VERSION, f"{verb.value} exists from cniVersion {since} on, not in {version}"
        )
    return str(version)


def _network(config: Mapping[str, Any]) -> str:
    name = config.get("name")
    if not isinstance(name, str) or not CONTAINER_ID.fullmatch(name) or len(name) > LONGEST_NAME:
        raise CniError(
            Code.INVALID_CONFIG,
            f"name: {shown(name)} is not a network's name (up to {LONGEST_NAME} letters, digits, '_', '.', '-')",
        )
    return name


def _addresses_only(config: Mapping[str, Any]) -> bool:
    """Whether another plugin asks for addresses: the runtime calls us by `type`, another plugin by `ipam.type`."""
    kind, ipam = config.get("type"), config.get("ipam")
    ours = isinstance(kind, str) and kind in PLUGIN_TYPES
    return not ours and isinstance(ipam, dict) and ipam.get("type") in IPAM_TYPES


def _previous(verb: Verb, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    previous = config.get("prevResult")
    if verb is Verb.DEL:
        return None
    if previous is None:
        if verb is Verb.CHECK:
            raise CniError(Code.INVALID_CONFIG, "prevResult: CHECK needs the result of the ADD")
        return None
    lists = [previous.get(name) or [] for name in LISTS] if isinstance(previous, dict) else [None]
    if not all(isinstance(found, list) and all(isinstance(item, dict) for item in found) for found in lists):
        raise CniError(
            Code.INVALID_CONFIG,
            f"prevResult: must be an object whose {', '.join(LISTS)} are lists of objects",
        )
    if len(json.dumps(previous)) > MOST_PREVIOUS_BYTES:
        raise CniError(Code.INVALID_CONFIG, f"prevResult: larger than {MOST_PREVIOUS_BYTES} bytes")
    return dict(previous)


LISTS = ("interfaces", "ips", "routes")
"""Keys of a result whose values are lists of objects."""


def _arguments(text: str) -> dict[str, str]:
    """CNI_ARGS: `K=V;K=V`. Unknown keys are tolerated, as runtimes of Kubernetes expect."""
    found = {}
    if len(text) > LONGEST_ARGUMENTS:
        raise CniError(Code.BAD_ENVIRONMENT, f"CNI_ARGS: longer than {LONGEST_ARGUMENTS} characters")
    for pair in text.split(";"):
        key, equals, value = pair.partition("=")
        if pair and not equals:
            raise CniError(Code.BAD_ENVIRONMENT, f"CNI_ARGS: {shown(pair)} is not of the form KEY=VALUE")
        found[key] = value
    return found
