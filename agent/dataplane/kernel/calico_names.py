"""What Calico calls things in the kernel, so that a node can change from it to Tortie and back: devices, protocols.

Promises: the names and numbers are Calico's own. Does not know: what the devices are for.
"""

from __future__ import annotations

RTPROT_DATASTORE = 80
"""Calico's number for routes that Felix programs from the datastore."""

TUNL0 = "tunl0"
VXLAN_DEVICE = "vxlan.calico"
VXLAN6_DEVICE = "vxlan-v6.calico"
VXLAN_DEVICES = (VXLAN_DEVICE, VXLAN6_DEVICE)
VXLAN_PORT = 4789
WORKLOAD_PREFIX = "cali"
OUR_TUNNELS = frozenset({TUNL0, *VXLAN_DEVICES})
LONGEST_DEVICE_NAME = 15
"""IFNAMSIZ, without the octet behind the name."""


def is_workload_device(name: str) -> bool:
    """Whether a name that somebody gave can be the host's side of a pod's interface: `cali…`, as the kernel allows.

    It becomes part of a path below /proc/sys, so it must not lead out of there (net/core/dev.c: dev_valid_name).
    """
    return (
        name.startswith(WORKLOAD_PREFIX)
        and len(name.encode(errors="surrogatepass")) <= LONGEST_DEVICE_NAME
        and name.isprintable()
        and not any(character in "/: " for character in name)
    )


def version_of(device: str) -> int:
    """The version of IP that one of our tunnel devices carries, inside and outside."""
    return 6 if device == VXLAN6_DEVICE else 4
