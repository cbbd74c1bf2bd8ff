"""Forgets the connections of addresses that left this node, over the connection tracker's own netlink family.

Promises: only entries of the given addresses are deleted; one that ended meanwhile is success. Does not know: why an
address left.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from ipaddress import IPv4Address

from agent.dataplane import conntrack, procfs
from agent.dataplane.conntrack import Connection
from agent.dataplane.kernel import KernelError, Unsupported
from agent.dataplane.netlink_socket import (
    NETLINK_NETFILTER,
    UNSUPPORTED_ERRNOS,
    Refused,
    RequestSocket,
    dump,
    reason,
)

FILTERED_ADDRESSES = 8
"""Up to here the kernel looks for each address, if there are many connections; above, one dump is cheaper."""
FEW_CONNECTIONS = 2000
"""Up to here one dump of everything is cheaper than two filtered ones: each walks the whole table, 10 ms."""
COUNT = "net/netfilter/nf_conntrack_count"
ABSENT = UNSUPPORTED_ERRNOS | {errno.EINVAL}
"""What the nfnetlink of a kernel without ctnetlink answers."""


class Conntrack:
    """The connection table of the namespace the process is in."""

    def __init__(self) -> None:
        self._requests: RequestSocket | None = None

    def close(self) -> None:
        """Close the socket."""
        if self._requests is not None:
            self._requests.close()

    async def forget(self, addresses: Collection[IPv4Address]) -> int:
        """Delete the connections from and to these addresses; how many. Raises Unsupported, KernelError."""
        if not addresses:
            return 0
        try:
            found = await self._find(addresses)
        except Refused as error:
            if error.code in ABSENT:
                why = f"this kernel has no ctnetlink: connections of departed pods live on ({error})"
                raise Unsupported(why) from error
            raise
        if not found:
            return 0
        if self._requests is None:
            self._requests = RequestSocket(NETLINK_NETFILTER)
        refused = await self._requests.execute([conntrack.deletion(connection) for connection in found])
        for code, words in refused.values():
            if code != errno.ENOENT:
                raise KernelError(f"deleting a tracked connection: {reason(code, words)}")
        return len(found) - len(refused)

    async def _find(self, addresses: Collection[IPv4Address]) -> list[Connection]:
        count = procfs.read(COUNT)
        if len(addresses) > FILTERED_ADDRESSES or (count is not None and int(count) <= FEW_CONNECTIONS):
            requests = [conntrack.dump_request()]
        else:
            requests = [conntrack.dump_request(source=one) for one in addresses]
            requests += [conntrack.dump_request(answerer=one) for one in addresses]
        wanted = frozenset(addresses)
        found: dict[bytes, Connection] = {}
        for request in requests:
            for connection in await dump(request, conntrack.CT_NEW, conntrack.decode, NETLINK_NETFILTER):
                if connection.source in wanted or connection.answerer in wanted:
                    found[connection.identity] = connection
        return list(found.values())
