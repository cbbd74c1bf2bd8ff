"""What else of Calico's lies on a machine: named for whoever takes the node over, and left where it is.

Promises: reads the names of files and interfaces only, and changes nothing. Does not know: filter rules.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

FILES = {
    "etc/cni/net.d/10-calico.conflist": "runtimes take it before 10-tortie.conflist: move it away",
    "etc/cni/net.d/calico-kubeconfig": "credentials for Kubernetes that Tortie does not need",
    "opt/cni/bin/calico": "Calico's plugin; no conflist of Tortie's names it",
    "opt/cni/bin/calico-ipam": "Calico's plugin; no conflist of Tortie's names it",
    "var/lib/calico/nodename": "the name under which Calico registered this machine: Tortie's should be the same",
    "sys/fs/bpf/calico": "maps of the eBPF data plane; its programs go with a reboot",
    "sys/fs/bpf/tc/globals/cali_v4_state": "maps of the eBPF data plane; its programs go with a reboot",
}
DEVICES = {
    "wireguard.cali": "encrypts nothing any more, but ip rule and ip route show table 1 may send packets there",
    "wg-v6.cali": "encrypts nothing any more, but ip -6 rule may send packets there",
    "bpfin.cali": "of the eBPF data plane",
    "bpfout.cali": "of the eBPF data plane",
}


def other_remains(root: Path = Path("/")) -> Iterator[tuple[str, str]]:
    """What is there, and what it means."""
    for name, meaning in FILES.items():
        if os.path.lexists(root / name):
            yield f"/{name}", meaning
    devices = {name for _, name in socket.if_nameindex()}
    for name, meaning in DEVICES.items():
        if name in devices:
            yield f"interface {name}", meaning
