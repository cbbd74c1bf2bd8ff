"""Keys of a network configuration that are not followed: Calico's that mean nothing here, and unknown ones, with why.

Calico's configurations are used as they are (`"type": "calico"`). What they say is followed, refused with an error when
a pod would not be what it was asked to be, or named here.
Promises: pure; a key that asks for nothing (null, empty, false, or what is done anyway) is not named. Nothing of a
value is shown: it may be a credential. Does not know: what is followed means, who tells people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.cni.plugin.pod_annotations import CAPABILITY

MOST_NAMED = 64
"""Of one configuration."""
LONGEST_KEY = 64

FOLLOWED: Mapping[str, frozenset[str]] = {
    "": frozenset(
        (
            *("cniVersion", "cniVersions", "name", "type", "mtu", "ipam", "args", "container_settings"),
            *("runtimeConfig", "prevResult", "capabilities", "disableCheck", "disableGC"),
            *("loadOnlyInlinedPlugins", "cni.dev/valid-attachments", "cni.dev/attachments"),
        )
    ),
    "ipam": frozenset(("type", "assign_ipv4", "assign_ipv6", "ipv4_pools", "ipv6_pools", "keep")),
    "container_settings": frozenset(("allow_ip_forwarding",)),
    "runtimeConfig": frozenset(("ips", "mac", CAPABILITY)),
    "args": frozenset(("cni",)),
}
"""Object -> its keys that are followed; the empty name is the configuration itself."""
FOR_ANOTHER_PLUGIN = frozenset(("length", "length6", "gateway", "gateway6", "routes"))
"""Of `ipam`, followed where another plugin makes the interface."""
DONE_ANYWAY: Mapping[str, tuple[Any, ...]] = {
    "datastore_type": ("etcdv3",),
    "device_type": ("veth",),
    "num_queues": (1,),
    "nodename_file_optional": (True,),
}
"""Key -> the values that ask for what is so anyway."""

_NODE = "the agent knows its node (setting node.name)"
_LOG = "the agent logs to the journal of systemd, as its own settings say"
_ETCD = "the agent has its own settings for etcd"
_RANGE = (
    "addresses come from the cluster's IPPools: choose them by ipam.ipv4_pools, or ask for one with `ips`"
)
_PORTS = "chain the plugin that does it behind this one"
WHY: Mapping[str, str] = {
    **dict.fromkeys(("nodename", "hostname", "nodename_file", "nodename_file_optional"), _NODE),
    **dict.fromkeys(
        ("log_level", "log_file_path", "log_file_max_size", "log_file_max_age", "log_file_max_count"), _LOG
    ),
    **dict.fromkeys(
        (
            *("datastore_type", "etcd_endpoints", "etcd_authority", "etcd_scheme", "etcd_discovery_srv"),
            *("etcd_key_file", "etcd_cert_file", "etcd_ca_cert_file"),
        ),
        _ETCD,
    ),
    "policy": "policies are not enforced",
    "kubernetes": "the agent asks the API of Kubernetes, with its own settings [kubernetes]; without them "
    f"a pod's annotations are read with the capability {CAPABILITY}",
    "k8s_api_root": "no API of Kubernetes is asked",
    "feature_control": "neither addresses outside IPAM nor floating addresses are given",
    "include_default_routes": "a pod always has a default route",
    "device_type": "every pod has a veth pair",
    "num_queues": "every pod's interface has one queue",
    "require_mtu_file": "the agent computes the MTU itself",
    "readiness_gates": "an ADD waits for the agent, the datastore and the pod's routes, and for nothing else",
    "policy_setup_timeout_seconds": "policies are not enforced, so nothing waits for them",
    "endpoint_status_dir": "an ADD is answered when the pod's routes stand",
    "ipam_lock_file": "the agent is the only one who assigns addresses of its node, and needs no lock",
    "dataplane_options": "the agent is the data plane",
    "qps": "no API of Kubernetes is asked",
    "burst": "no API of Kubernetes is asked",
    "dns": "resolvers are the runtime's",
    "ipMasq": "a pool's natOutgoing says what is masqueraded",
    **dict.fromkeys(
        ("ipam.subnet", "ipam.ranges", "ipam.rangeStart", "ipam.rangeEnd", "ipam.dataDir"), _RANGE
    ),
    "ipam.resolvConf": "resolvers are the runtime's",
    **dict.fromkeys(
        (f"ipam.{key}" for key in FOR_ANOTHER_PLUGIN), "a pod has its address alone, and Calico's gateway"
    ),
    "runtimeConfig.ipRanges": _RANGE,
    **dict.fromkeys(("runtimeConfig.portMappings", "runtimeConfig.bandwidth"), _PORTS),
    "runtimeConfig.dns": "resolvers are the runtime's",
}
"""Key -> why it is not followed."""
UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class IgnoredKey:
    """A key of a configuration that is not followed, and why."""

    key: str
    """With the object that it is in: `ipam.subnet`."""
    why: str


def ignored_keys(config: Mapping[str, Any]) -> Iterator[IgnoredKey]:
    """What a configuration asks for that is not done, `MOST_NAMED` at most."""
    count = 0
    for within, followed in FOLLOWED.items():
        found = config if not within else config.get(within)
        if not isinstance(found, dict):
            continue
        for key, value in found.items():
            if key in followed or _asks_for_nothing(key, value) or not _is_ours(config, within, key):
                continue
            count += 1
            if count > MOST_NAMED:
                return
            name = _shown(f"{within}.{key}" if within else key)
            yield IgnoredKey(name, WHY.get(name, UNKNOWN))


def _asks_for_nothing(key: str, value: Any) -> bool:
    if isinstance(value, dict) and not any(value.values()):
        return True  # as feature_control with everything off
    return not value or any(type(value) is type(done) and value == done for done in DONE_ANYWAY.get(key, ()))


def _is_ours(config: Mapping[str, Any], within: str, key: str) -> bool:
    """Whether a key is for us: another plugin that asks for addresses alone has keys of its own."""
    if config.get("type") in ("tortie", "calico") or not isinstance(config.get("ipam"), dict):
        return True
    return within == "ipam" and key not in FOR_ANOTHER_PLUGIN


def _shown(name: str) -> str:
    text = ascii(name)[1:-1]
    return text if len(text) <= LONGEST_KEY else f"{text[:LONGEST_KEY]}…"
