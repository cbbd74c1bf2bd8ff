"""Deletes the connections of addresses that left this node, over the connection tracker's own netlink family.

Promises: only entries of the given addresses are deleted; one that ended meanwhile is success. Does not know: why an
address left.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from ipaddress import IPv4Address

from agent.netlink import sysctl
from agent.netlink.ctnetlink import (
    CT_NEW,
    Connection,
    connection_deletion,
    connections_request,
    decode_connection,
)
from agent.netlink.kernel_errors import KernelError, Unsupported
from agent.netlink.netlink_socket import (
    NETLINK_NETFILTER,
    UNSUPPORTED_ERRNOS,
    NlmsgError,
    RequestSockets,
    dump,
    reason,
)
from agent.netlink.objects import Address

FILTERED_ADDRESSES = 8
"""Up to here the kernel looks for each address, if there are many connections; above, one dump is cheaper."""
COUNT = "net/netfilter/nf_conntrack_count"
ABSENT = UNSUPPORTED_ERRNOS | {errno.EINVAL}
"""What the nfnetlink of a kernel without ctnetlink answers."""


class Conntrack:
    """The part of a kernel that is the connection table."""

    _sockets: RequestSockets
    few_connections = 2000
    """Up to here one dump of everything is cheaper than two filtered ones: each walks the whole table, 10 ms."""

    async def delete_connections(self, addresses: Collection[Address]) -> int:
        """Delete the connections from and to these addresses; how many. Raises Unsupported, KernelError."""
        if not addresses:
            return 0
        try:
            found = await self._find(addresses)
        except NlmsgError as error:
            if error.code in ABSENT:
                why = f"this kernel has no ctnetlink: connections of departed pods live on ({error})"
                raise Unsupported(why) from error
            raise
        if not found:
            return 0
        deletions = [connection_deletion(connection) for connection in found]
        refused = await self._sockets[NETLINK_NETFILTER].execute(deletions)
        for code, words in refused.values():
            if code != errno.ENOENT:
                raise KernelError(f"deleting a tracked connection: {reason(code, words)}")
        return len(found) - len(refused)

    async def _find(self, addresses: Collection[Address]) -> list[Connection]:
        wanted = frozenset(addresses)
        found: dict[bytes, Connection] = {}
        for request in self._requests_for(wanted):
            for connection in await dump(request, CT_NEW, decode_connection, NETLINK_NETFILTER):
                if connection.source in wanted or connection.answerer in wanted:
                    found[connection.identity] = connection
        return list(found.values())

    def _requests_for(self, wanted: frozenset[Address]) -> list[bytes]:
        count = sysctl.read(COUNT)
        few = count is not None and int(count) <= self.few_connections
        versions = {one.version for one in wanted}
        if len(wanted) > FILTERED_ADDRESSES or few:
            return [connections_request(version) for version in sorted(versions)]
        # The filter for IPv6 addresses is of no use: kernels to this day leave out what matches (6.18).
        requests = [connections_request(6)] if 6 in versions else []
        four = [one for one in wanted if isinstance(one, IPv4Address)]
        requests += [connections_request(source=one) for one in four]
        return requests + [connections_request(answerer=one) for one in four]
