"""Reads one kind of kernel object into a picture; switches are read by name (`switches`).

Promises: a picture that could not be read stays as it was. Does not know: when to read, what should be.
"""

from __future__ import annotations

from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.kinds.diff import ActualState
from agent.netlink.objects import VXLAN_DEVICES, Kind


async def read(kernel: Kernel, picture: ActualState, kind: Kind) -> None:
    """Adopt a whole reading; of switches none. Raises KernelError."""
    match kind:
        case Kind.TUNNEL:
            picture.tunnels = dict(await kernel.tunnels())
        case Kind.NEIGHBOUR:
            tables = [await kernel.neighbours(device) for device in VXLAN_DEVICES]
            found = [entry for table in tables for entry in table.values()]
            picture.neighbours = {(entry.device, entry.address): entry for entry in found}
        case Kind.FDB:
            forwarding = [await kernel.fdb(device) for device in VXLAN_DEVICES]
            entries = [entry for table in forwarding for entry in table.values()]
            picture.fdb = {(entry.device, entry.mac): entry for entry in entries}
        case Kind.ROUTE:
            picture.replace_routes(await kernel.routes())
        case Kind.MASQUERADE:
            picture.masquerade = await kernel.masquerade()
        case Kind.FORWARD:
            picture.forward = dict(await kernel.forward_chains())
        case Kind.SYSCTL:
            return
