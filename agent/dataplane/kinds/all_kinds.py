"""The kinds of kernel object, in the order in which they are created; they are deleted in the opposite order.

Promises: none is left out. Does not know: when they are read or written.
"""

from __future__ import annotations

from typing import Any

from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.kinds.forward_chains import ForwardChains
from agent.dataplane.kinds.kernel_routes import Routes
from agent.dataplane.kinds.masquerading import Masquerading
from agent.dataplane.kinds.object_kind import ObjectKind
from agent.dataplane.kinds.sysctls import Sysctls
from agent.dataplane.kinds.tunnels import Tunnels
from agent.dataplane.kinds.vxlan_entries import ForwardingEntries, Neighbours
from agent.dataplane.kinds.workload_filters import WorkloadFilters


def all_kinds(
    kernel: Kernel, log: Any, *, ownership: Ownership, tunnel_grace_seconds: float
) -> tuple[ObjectKind[Any, Any], ...]:
    """One reconciler's: some have a memory. A tunnel goes when nothing came out of it for `tunnel_grace_seconds`."""
    return (
        WorkloadFilters(kernel, log),
        Tunnels(kernel, log, tunnel_grace_seconds),
        Neighbours(kernel, log),
        ForwardingEntries(kernel, log),
        Sysctls(kernel, log),
        Routes(kernel, log, ownership),
        Masquerading(kernel, log),
        ForwardChains(kernel, log),
    )
