"""Store over etcd v3: grpc.aio carries, etcd3's messages speak, everything else is here.

Promises: those of `ipam.etcd.store`, with the deadlines and retries of `calls` and the reconnects of `watches`.
Does not know: Calico's keys, JSON, connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from grpc import aio

from ipam.etcd.calls import Calls, translated
from ipam.etcd.channels import Channels
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.etcd_messages import end_of, rpc, versioned
from ipam.etcd.store import (
    MOST_OPERATIONS,
    CommitOutcome,
    Committed,
    Delete,
    GuardFailed,
    Listing,
    Operation,
    Put,
    Unchanged,
    Versioned,
    WatchEvent,
    check_size,
)
from ipam.etcd.watches import HEARTBEAT_SECONDS, SILENCE_SECONDS, Watches, WatchPosition
from ipam.failures import StoreRefused

PAGE_KEYS = 1000
"""Keys read by one range call; a list of any length is read page by page at one revision."""
MOD_REVISION, EQUAL = 2, 0
"""Compare.CompareTarget.MOD and Compare.CompareResult.EQUAL of etcd's rpc.proto."""


class EtcdStore:
    """The Store of a whole etcd cluster, over one connection to each of its members."""

    def __init__(
        self,
        config: EtcdConfig,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """Connects lazily. Raises ValueError when a TLS file cannot be used."""
        self._calls = Calls(config)
        self._watches = Watches(self._calls, heartbeat_seconds, silence_seconds)
        self._listed_in: int | None = None  # the cluster: a watch right behind a list must find the same one

    @property
    def channels(self) -> Channels:
        """The connections to the members, for status and warnings."""
        return self._calls.channels

    # -- reading ------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Versioned | None:
        """See Store."""
        answer = await self._calls.call_anywhere("KV", "Range", rpc.RangeRequest(key=key.encode()))
        return versioned(answer.kvs[0]) if answer.kvs else None

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Versioned]:
        """See Store."""
        found: dict[str, Versioned] = {}
        revision = 0
        for start in range(0, len(keys), MOST_OPERATIONS):
            ranges = [
                rpc.RequestOp(request_range=rpc.RangeRequest(key=key.encode(), revision=revision))
                for key in keys[start : start + MOST_OPERATIONS]
            ]
            answer = await self._calls.call_anywhere("KV", "Txn", rpc.TxnRequest(success=ranges))
            revision = revision or answer.header.revision
            for response in answer.responses:
                found.update({value.key: value for value in map(versioned, response.response_range.kvs)})
        return found

    async def list(self, prefix: str) -> Listing:
        """See Store."""
        start, end = prefix.encode(), end_of(prefix.encode())
        values: dict[str, Versioned] = {}
        revision, position = 0, WatchPosition(0)
        while True:
            request = rpc.RangeRequest(key=start, range_end=end, limit=PAGE_KEYS, revision=revision)
            answer = await self._calls.call_anywhere("KV", "Range", request)
            revision = revision or answer.header.revision
            self._listed_in = position.must_stay_in(answer.header.cluster_id)
            values.update({value.key: value for value in map(versioned, answer.kvs)})
            if not answer.more:
                return Listing(values, revision)
            start = answer.kvs[-1].key + b"\0"

    # -- writing ------------------------------------------------------------------------------------------------------

    async def commit(self, guards: Sequence[Unchanged], operations: Sequence[Operation]) -> CommitOutcome:
        """See Store."""
        check_size(guards, operations)
        compares = [
            rpc.Compare(
                target=MOD_REVISION, result=EQUAL, key=guard.key.encode(), mod_revision=guard.revision
            )
            for guard in guards
        ]
        reads = [rpc.RequestOp(request_range=rpc.RangeRequest(key=guard.key.encode())) for guard in guards]
        writes = [_operation(operation) for operation in operations]
        request = rpc.TxnRequest(compare=compares, success=writes, failure=reads)
        asked_again: list[bool] = []
        # Once committed, such a transaction has changed a key that guards it: calling it again only finds that it lost.
        if {guard.key for guard in guards}.isdisjoint(operation.key for operation in operations):
            answer = await self._calls.call_once("KV", "Txn", request)
        else:
            answer = await self._calls.call_anywhere("KV", "Txn", request, lambda: asked_again.append(True))
        if answer.succeeded:
            return Committed(answer.header.revision)
        present: dict[str, Versioned | None] = {guard.key: None for guard in guards}
        for response in answer.responses:
            present.update({value.key: value for value in map(versioned, response.response_range.kvs)})
        if asked_again and (revision := _committed_unanswered(operations, present)):
            return Committed(revision)
        return GuardFailed(present)

    async def grant_lease(self, ttl_seconds: int) -> int:
        """See Store."""
        answer = await self._calls.call_once("Lease", "LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl_seconds))
        return int(answer.ID)

    async def keep_alive(self, lease: int) -> bool:
        """See Store."""

        async def requests() -> AsyncIterator[Any]:
            yield rpc.LeaseKeepAliveRequest(ID=lease)

        member = await self.channels.ready()
        call = member.stub("Lease").LeaseKeepAlive(
            requests(), timeout=self._calls.config.call_seconds, metadata=self._calls.metadata()
        )
        try:
            answer = await call.read()
        except aio.AioRpcError as error:
            raise translated(error, self._calls.config) from error
        finally:
            call.cancel()
        return answer is not aio.EOF and answer.TTL > 0

    async def revoke_lease(self, lease: int) -> None:
        """See Store."""
        try:
            await self._calls.call_once("Lease", "LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
        except StoreRefused as error:
            if "not found" not in str(error):
                raise

    async def close(self) -> None:
        """See Store."""
        await self.channels.close()

    # -- watching -----------------------------------------------------------------------------------------------------

    def watch(self, prefix: str, start: int) -> AsyncIterator[WatchEvent]:
        """See Store."""
        return self._watches.watch(prefix, start, self._listed_in)


def _committed_unanswered(operations: Sequence[Operation], present: Mapping[str, Versioned | None]) -> int:
    """The revision at which an unanswered first call of a transaction was committed; 0 if it cannot be told.

    It was if every guarded key that it writes stands there with our value, all of one revision.
    """
    revisions = set()
    for operation in operations:
        found = present.get(operation.key)
        if operation.key not in present:
            continue
        if not isinstance(operation, Put) or found is None or found.value != operation.value:
            return 0
        revisions.add(found.revision)
    return revisions.pop() if len(revisions) == 1 else 0


def _operation(operation: Operation) -> Any:
    match operation:
        case Put(key, value, lease):
            return rpc.RequestOp(request_put=rpc.PutRequest(key=key.encode(), value=value, lease=lease))
        case Delete(key):
            return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key.encode()))
