"""Store over etcd v3: grpc.aio carries, etcd3's messages speak, everything else is here.

Promises: those of `ipam.etcd.store`, with the deadlines and retries of `calls`. A watch is a stream that is asked for
signs of life and resumed behind the last event that it delivered: nothing is lost and nothing invented across
reconnects; a revision that goes backwards, or another cluster (a restored backup), ends it like a compaction.
Does not know: Calico's keys, JSON, connections.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from grpc import aio

from ipam.etcd.calls import Calls, Metadata, translated
from ipam.etcd.channels import Channels
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.etcd_messages import end_of, key_bytes, rpc, text_of_key, versioned
from ipam.etcd.store import (
    MOST_OPERATIONS,
    Changed,
    CommitOutcome,
    Committed,
    Delete,
    Guard,
    GuardFailed,
    KeyCount,
    Listing,
    NoneNewer,
    Operation,
    Put,
    Unchanged,
    Versioned,
    WatchEvent,
    WatchProgress,
    check_size,
)
from ipam.failures import (
    AnswerTooLarge,
    Compacted,
    StoreRefused,
    StoreUnavailable,
    TakesNoWrites,
    WentBack,
)

PAGE_KEYS = 1000
"""Keys read by one range call; a list of any length is read page by page at one revision."""
MOD_REVISION, EQUAL, LESS = 2, 0, 2
"""Compare.CompareTarget.MOD, Compare.CompareResult.EQUAL and LESS of etcd's rpc.proto."""


HEARTBEAT_SECONDS = 5.0
"""A watch that has been silent this long asks for a progress notice …"""
SILENCE_SECONDS = 15.0
"""… and is given up when none came by then."""
FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 1.0
PROGRESS_REQUEST = b"\x1a\x00"
"""WatchRequest field 3 (progress_request), empty: newer than etcd3's messages, so given as bytes."""
HAS_LEADER = (("hasleader", "true"),)
"""With it etcd ends a watch on a member that is cut off from the others, which would else be silent for ever."""


@dataclass(slots=True)
class WatchPosition:
    """The next revision that a watch or a listing needs, and the cluster that it is in."""

    next_revision: int
    cluster: int | None = None
    denied: Metadata | None = None
    """The token with which a watch was denied last; None: it was not."""

    def must_stay_in(self, cluster: int) -> int:
        """Note the id of the cluster that answered; a restored backup has another one. Raises WentBack."""
        if self.cluster is None:
            self.cluster = cluster
        if cluster != self.cluster:
            raise WentBack(f"etcd is another cluster now ({cluster:x}, not {self.cluster:x})")
        return cluster


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
        self._heartbeat_seconds = heartbeat_seconds
        self._silence_seconds = silence_seconds
        self._listed_in: int | None = None  # the cluster: a watch right behind a list must find the same one
        self.unheard: dict[str, str] = {}
        """Prefix of a watch that has no stream now -> why."""
        self.doubtful = asyncio.Event()
        """Set when a stream broke or a write was refused for want of space: `health` should be asked."""

    @property
    def channels(self) -> Channels:
        """The connections to the members, for status and warnings."""
        return self._calls.channels

    async def health(self) -> tuple[str, ...]:
        """The alarms of the cluster, by etcd's names; NOSPACE: it takes no writes. Raises StoreUnavailable."""
        return await self._calls.health()

    async def version(self) -> str:
        """Which etcd the first member is that answers. Raises StoreUnavailable."""
        return await self._calls.version()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Versioned | None:
        """See Store."""
        answer = await self._calls.call_anywhere("KV", "Range", rpc.RangeRequest(key=key_bytes(key)))
        return versioned(answer.kvs[0]) if answer.kvs else None

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Versioned]:
        """See Store."""
        found: dict[str, Versioned] = {}
        revision = 0
        for start in range(0, len(keys), MOST_OPERATIONS):
            ranges = [
                rpc.RequestOp(request_range=rpc.RangeRequest(key=key_bytes(key), revision=revision))
                for key in keys[start : start + MOST_OPERATIONS]
            ]
            answer = await self._calls.call_anywhere("KV", "Txn", rpc.TxnRequest(success=ranges))
            revision = revision or answer.header.revision
            for response in answer.responses:
                found.update({value.key: value for value in map(versioned, response.response_range.kvs)})
        return found

    async def list(self, prefix: str) -> Listing:
        """See Store."""
        start, end = key_bytes(prefix), end_of(key_bytes(prefix))
        values: dict[str, Versioned] = {}
        revision, position, most = 0, WatchPosition(0), PAGE_KEYS
        while True:
            request = rpc.RangeRequest(key=start, range_end=end, limit=most, revision=revision)
            try:
                answer = await self._calls.call_anywhere("KV", "Range", request)
            except AnswerTooLarge:
                if most == 1:
                    raise
                most = max(1, most // 8)  # anybody may write values as large as etcd takes
                continue
            revision = revision or answer.header.revision
            self._listed_in = position.must_stay_in(answer.header.cluster_id)
            values.update({value.key: value for value in map(versioned, answer.kvs)})
            if not answer.more:
                return Listing(values, revision)
            start = answer.kvs[-1].key + b"\0"

    async def count(self, prefix: str) -> KeyCount:
        """See Store."""
        start = key_bytes(prefix)
        request = rpc.RangeRequest(key=start, range_end=end_of(start), count_only=True)
        answer = await self._calls.call_anywhere("KV", "Range", request)
        self._listed_in = WatchPosition(0).must_stay_in(answer.header.cluster_id)
        return KeyCount(answer.count, answer.header.revision)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def commit(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        """See Store."""
        check_size(guards, operations)
        compares = [_compare(guard) for guard in guards]
        keys = [guard.key for guard in guards if isinstance(guard, Unchanged)]
        reads = [rpc.RequestOp(request_range=rpc.RangeRequest(key=key_bytes(key))) for key in keys]
        writes = [_operation(operation) for operation in operations]
        request = rpc.TxnRequest(compare=compares, success=writes, failure=reads)
        asked_again: list[bool] = []
        # Once committed, such a transaction has changed a key that guards it: calling it again only finds that it lost.
        once = {*keys}.isdisjoint(operation.key for operation in operations)
        try:
            if once:
                answer = await self._calls.call_once("KV", "Txn", request)
            else:
                answer = await self._calls.call_anywhere(
                    "KV", "Txn", request, lambda: asked_again.append(True)
                )
        except TakesNoWrites:
            self.doubtful.set()
            raise
        if answer.succeeded:
            return Committed(answer.header.revision)
        present: dict[str, Versioned | None] = dict.fromkeys(keys)
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
        return self._watch(prefix, WatchPosition(start, self._listed_in))

    def watch_keys(self, keys: Sequence[str], start: int) -> AsyncIterator[WatchEvent]:
        """See Store."""
        ranges = [(key_bytes(key), b"") for key in keys]
        return self._watch_once(f"{len(keys)} keys", ranges, WatchPosition(start, self._listed_in))

    async def _watch(self, prefix: str, position: WatchPosition) -> AsyncIterator[WatchEvent]:
        wait, ranges = FIRST_WAIT_SECONDS, [(key_bytes(prefix), end_of(key_bytes(prefix)))]
        loop = asyncio.get_running_loop()
        patience = self._calls.config.patience_seconds
        give_up_at = loop.time() + patience
        try:
            while True:
                why = "etcd ended its stream"
                try:
                    async with aclosing(self._watch_once(prefix, ranges, position)) as events:
                        async for event in events:
                            position.next_revision = max(position.next_revision, event.revision + 1)
                            wait, give_up_at = FIRST_WAIT_SECONDS, loop.time() + patience
                            yield event
                except StoreUnavailable as error:
                    if self.channels.closed.is_set() or loop.time() > give_up_at:
                        raise
                    why = str(error)
                self.unheard[prefix] = why
                self.doubtful.set()
                self.channels.watch_restarts += 1
                await asyncio.sleep(wait * random.uniform(0.75, 1.0))
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
        finally:
            self.unheard.pop(prefix, None)

    async def _watch_once(
        self, what: str, ranges: Sequence[tuple[bytes, bytes]], position: WatchPosition
    ) -> AsyncGenerator[WatchEvent, None]:
        """The events of one gRPC stream, from its creation on; raises StoreUnavailable when it breaks.

        A range is a first key and the end, which is empty for that key alone. It ends when a new token is needed.
        """
        await self._calls.ensure_token()
        member, start = await self.channels.ready(), position.next_revision
        token = self._calls.metadata()
        call = member.stub("Watch").Watch(metadata=(*token, *HAS_LEADER))
        try:
            for key, end in ranges:
                create = rpc.WatchCreateRequest(
                    key=key, range_end=end, start_revision=start, progress_notify=True
                )
                await self._within(call.write(rpc.WatchRequest(create_request=create)), self._silence_seconds)
            async with aclosing(self._answers(call)) as answers:
                async for answer in answers:
                    if answer.canceled and self._forget_token(answer.cancel_reason, token, position):
                        return
                    _check(answer, what, start)
                    position.denied = None
                    self.unheard.pop(what, None)
                    position.must_stay_in(answer.header.cluster_id)
                    for event in answer.events:
                        yield _changed(event)
                    if not answer.events and not answer.created:
                        yield WatchProgress(answer.header.revision)
        except aio.AioRpcError as error:
            if self._calls.forget_token(error):
                return
            raise self._calls.failed(member, error) from error
        except StoreUnavailable:
            self.channels.failed(member)
            raise
        finally:
            call.cancel()

    def _forget_token(self, reason: str, token: Metadata, position: WatchPosition) -> bool:
        """Whether a watch was cancelled for the token that it was begun with: the next one logs in anew.

        etcd up to 3.5 says the same to a user who may not watch there. Raises StoreRefused when another token is denied
        as the one before was.
        """
        if not self._calls.is_denied(reason):
            return False
        if position.denied not in (None, token):
            raise StoreRefused(f"etcd says: {reason}")
        position.denied = token
        self._calls.drop_token(token)
        return True

    async def _answers(self, call: Any) -> AsyncGenerator[Any, None]:
        """The messages of one stream; a silent server is asked for a sign of life, and given up if it gives none.

        Raises StoreUnavailable.
        """
        reading: asyncio.Task[Any] | None = None
        silent = 0.0
        try:
            while True:
                reading = reading or asyncio.ensure_future(call.read())
                done, _ = await asyncio.wait({reading}, timeout=self._heartbeat_seconds)
                if not done:
                    silent += self._heartbeat_seconds
                    if silent >= self._silence_seconds:
                        raise StoreUnavailable(f"etcd has been silent for {silent:g} s")
                    question = rpc.WatchRequest()
                    question.MergeFromString(PROGRESS_REQUEST)
                    await self._within(call.write(question), self._heartbeat_seconds)
                    continue
                if reading.cancelled():  # grpc's way to say that the channel was closed under the call
                    raise StoreUnavailable("the connection to etcd was closed")
                answer = reading.result()
                reading, silent = None, 0.0
                if answer is aio.EOF:
                    return
                yield answer
        finally:
            if reading is not None:
                reading.cancel()
                with suppress(asyncio.CancelledError, aio.AioRpcError):
                    await reading

    async def _within(self, work: Awaitable[object], seconds: float) -> None:
        """Write to a stream within so many seconds. Raises StoreUnavailable.

        grpc by itself never ends a write whose channel was closed before it began.
        """
        writing = asyncio.ensure_future(work)
        closing = asyncio.ensure_future(self.channels.closed.wait())
        try:
            done, _ = await asyncio.wait(
                {writing, closing}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if closing in done or (writing in done and writing.cancelled()):
                raise StoreUnavailable("the connection to etcd was closed")
            if writing not in done:
                raise StoreUnavailable(f"etcd took nothing for {seconds:g} s")
            writing.result()
        except asyncio.InvalidStateError as error:
            raise StoreUnavailable("etcd ended the stream") from error
        finally:
            closing.cancel()
            writing.cancel()
            await asyncio.gather(closing, writing, return_exceptions=True)


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


def _compare(guard: Guard) -> Any:
    match guard:
        case Unchanged(key, revision):
            return rpc.Compare(target=MOD_REVISION, result=EQUAL, key=key_bytes(key), mod_revision=revision)
        case NoneNewer(prefix, revision):  # holds of every key in the range; of none, too
            start = key_bytes(prefix)
            return rpc.Compare(
                target=MOD_REVISION,
                result=LESS,
                key=start,
                range_end=end_of(start),
                mod_revision=revision + 1,
            )


def _operation(operation: Operation) -> Any:
    match operation:
        case Put(key, value, lease):
            return rpc.RequestOp(request_put=rpc.PutRequest(key=key_bytes(key), value=value, lease=lease))
        case Delete(key):
            return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key_bytes(key)))


def _check(answer: Any, what: str, start: int) -> None:
    """Raises Compacted, WentBack or StoreUnavailable if an answer on a watch stream says so."""
    if answer.compact_revision or (answer.canceled and "compacted" in answer.cancel_reason):
        raise Compacted(f"revision {start} of {what} is gone (kept from {answer.compact_revision})")
    if answer.created and answer.header.revision < start - 1:
        raise WentBack(f"etcd went back from revision {start - 1} to {answer.header.revision}")
    if answer.canceled:
        raise StoreUnavailable(f"the watch of {what} was ended: {answer.cancel_reason or 'no reason'}")


def _changed(event: Any) -> Changed:
    deleted = event.type == 1  # Event.EventType.DELETE
    value = None if deleted else versioned(event.kv)
    return Changed(text_of_key(event.kv.key), value, event.kv.mod_revision)
