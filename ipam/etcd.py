"""Store over etcd v3: grpc.aio carries, etcd3's messages speak, everything else is here.

Promises: those of `ipam.store`. Every call has a deadline; a frozen server is noticed by pings; a watch resumes behind
the last event it delivered, so nothing is lost and nothing invented across reconnects; a revision that goes backwards
(a restored backup) ends it like a compaction. Tokens are renewed when the server forgets them.
Does not know: Calico's keys, JSON.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from grpc import aio

from ipam.errors import Compacted, StoreError, StoreRefused, StoreUnavailable, WentBack
from ipam.etcd_channels import Channels, Link
from ipam.etcd_config import EtcdConfig
from ipam.etcd_messages import rpc
from ipam.store import (
    MOST_OPERATIONS,
    Changed,
    Committed,
    Delete,
    Listing,
    Lost,
    Operation,
    Outcome,
    Progress,
    Put,
    Unchanged,
    Versioned,
    WatchEvent,
)

__all__ = ["EtcdConfig", "EtcdStore"]

PAGE_KEYS = 1000
"""Keys read by one range call; a list of any length is read page by page at one revision."""
HEARTBEAT_SECONDS = 5.0
"""A watch that has been silent this long asks for a progress notice …"""
SILENCE_SECONDS = 15.0
"""… and is given up when none came by then."""
FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 1.0
MOD_REVISION, EQUAL = 2, 0
"""Compare.CompareTarget.MOD and Compare.CompareResult.EQUAL of etcd's rpc.proto."""
PROGRESS_REQUEST = b"\x1a\x00"
"""WatchRequest field 3 (progress_request), empty: newer than etcd3's messages, so given as bytes."""

HAS_LEADER = (("hasleader", "true"),)
"""With it etcd ends a watch on a member that is cut off from the others, which would else be silent for ever."""
STALE_TOKEN = ("invalid auth token", "revision of auth store is old")
"""What etcd says to a token that it forgot, or that is older than the last change of users and roles."""
REFUSALS = frozenset(
    {
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.NOT_FOUND,
    }
)
"""Answers that another attempt will not change."""

Answer = TypeVar("Answer")


class EtcdStore:
    """One channel to the cluster."""

    def __init__(
        self,
        config: EtcdConfig,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """Connects lazily. Raises ValueError when a TLS file cannot be used."""
        self._config = config
        self._heartbeat_seconds = heartbeat_seconds
        self._silence_seconds = silence_seconds
        self.channels = Channels(config)
        self._token: str | None = None
        self._listed_in: int | None = None  # the cluster: a watch right behind a list must find the same one

    # -- calls --------------------------------------------------------------------------------------------------------

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self._token),) if self._token is not None else ()

    async def _authenticate(self) -> None:
        request = rpc.AuthenticateRequest(name=self._config.username, password=self._config.secret())
        link = await self.channels.ready()
        try:
            answer = await link.stub("Auth").Authenticate(request, timeout=self._config.call_seconds)
        except aio.AioRpcError as error:
            raise self._failed(link, error) from error
        self._token = answer.token

    async def _call(self, stub: str, method: str, request: Any) -> Any:
        """One unary call; once more with a fresh token when the old one has expired, or when a pure read failed."""
        if self._config.username is not None and self._token is None:
            await self._authenticate()
        try:
            return await self._once(stub, method, request)
        except aio.AioRpcError as error:
            if self._token_expired(error):
                await self._authenticate()
            elif method != "Range" or error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise _translated(error, self._config) from error
        try:
            return await self._once(stub, method, request)
        except aio.AioRpcError as error:
            raise _translated(error, self._config) from error

    async def _once(self, stub: str, method: str, request: Any) -> Any:
        link = await self.channels.ready()
        call: Callable[..., Awaitable[Any]] = getattr(link.stub(stub), method)
        try:
            return await call(request, timeout=self._config.call_seconds, metadata=self._metadata())
        except aio.AioRpcError as error:
            self._failed(link, error)
            raise

    def _failed(self, link: Link, error: aio.AioRpcError) -> StoreError:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            self.channels.failed(link)
        return _translated(error, self._config)

    def _token_expired(self, error: aio.AioRpcError) -> bool:
        if self._config.username is None:
            return False
        details = error.details() or ""
        return error.code() is grpc.StatusCode.UNAUTHENTICATED or any(text in details for text in STALE_TOKEN)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Versioned | None:
        """See Store."""
        answer = await self._call("KV", "Range", rpc.RangeRequest(key=key.encode()))
        return _versioned(answer.kvs[0]) if answer.kvs else None

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Versioned]:
        """See Store."""
        found: dict[str, Versioned] = {}
        revision = 0
        for start in range(0, len(keys), MOST_OPERATIONS):
            ranges = [
                rpc.RequestOp(request_range=rpc.RangeRequest(key=key.encode(), revision=revision))
                for key in keys[start : start + MOST_OPERATIONS]
            ]
            answer = await self._call("KV", "Txn", rpc.TxnRequest(success=ranges))
            revision = revision or answer.header.revision
            for response in answer.responses:
                found.update({value.key: value for value in map(_versioned, response.response_range.kvs)})
        return found

    async def list(self, prefix: str) -> Listing:
        """See Store."""
        start, end = prefix.encode(), _end_of(prefix.encode())
        values: dict[str, Versioned] = {}
        revision, place = 0, _Place(0)
        while True:
            request = rpc.RangeRequest(key=start, range_end=end, limit=PAGE_KEYS, revision=revision)
            answer = await self._call("KV", "Range", request)
            revision = revision or answer.header.revision
            self._listed_in = place.stay_in(answer.header.cluster_id)
            values.update({value.key: value for value in map(_versioned, answer.kvs)})
            if not answer.more:
                return Listing(values, revision)
            start = answer.kvs[-1].key + b"\0"

    # -- writing ------------------------------------------------------------------------------------------------------

    async def commit(self, guards: Sequence[Unchanged], operations: Sequence[Operation]) -> Outcome:
        """See Store."""
        if len(guards) > MOST_OPERATIONS or len(operations) > MOST_OPERATIONS:
            raise ValueError(f"a transaction takes at most {MOST_OPERATIONS} guards and as many operations")
        compares = [
            rpc.Compare(
                target=MOD_REVISION, result=EQUAL, key=guard.key.encode(), mod_revision=guard.revision
            )
            for guard in guards
        ]
        reads = [rpc.RequestOp(request_range=rpc.RangeRequest(key=guard.key.encode())) for guard in guards]
        writes = [_operation(operation) for operation in operations]
        answer = await self._call(
            "KV", "Txn", rpc.TxnRequest(compare=compares, success=writes, failure=reads)
        )
        if answer.succeeded:
            return Committed(answer.header.revision)
        present: dict[str, Versioned | None] = {guard.key: None for guard in guards}
        for response in answer.responses:
            present.update({value.key: value for value in map(_versioned, response.response_range.kvs)})
        return Lost(present)

    async def grant_lease(self, ttl_seconds: int) -> int:
        """See Store."""
        answer = await self._call("Lease", "LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl_seconds))
        return int(answer.ID)

    async def keep_alive(self, lease: int) -> bool:
        """See Store."""

        async def requests() -> AsyncIterator[Any]:
            yield rpc.LeaseKeepAliveRequest(ID=lease)

        link = await self.channels.ready()
        call = link.stub("Lease").LeaseKeepAlive(
            requests(), timeout=self._config.call_seconds, metadata=self._metadata()
        )
        try:
            answer = await call.read()
        except aio.AioRpcError as error:
            raise _translated(error, self._config) from error
        finally:
            call.cancel()
        return answer is not aio.EOF and answer.TTL > 0

    async def revoke_lease(self, lease: int) -> None:
        """See Store."""
        try:
            await self._call("Lease", "LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
        except StoreRefused as error:
            if "not found" not in str(error):
                raise

    async def close(self) -> None:
        """See Store."""
        await self.channels.close()

    # -- watching -----------------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, start: int) -> AsyncIterator[WatchEvent]:
        """See Store."""
        place = _Place(start, self._listed_in)
        wait = FIRST_WAIT_SECONDS
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._config.patience_seconds
        while True:
            try:
                async with aclosing(self._watch_once(prefix, place)) as events:
                    async for event in events:
                        place.next_revision = max(place.next_revision, event.revision + 1)
                        wait, give_up_at = FIRST_WAIT_SECONDS, loop.time() + self._config.patience_seconds
                        yield event
            except StoreUnavailable:
                if self.channels.closed.is_set() or loop.time() > give_up_at:
                    raise
            self.channels.watch_restarts += 1
            await asyncio.sleep(wait * random.uniform(0.75, 1.0))
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    async def _watch_once(self, prefix: str, place: _Place) -> AsyncGenerator[WatchEvent, None]:
        """One stream's life. Ends or raises StoreUnavailable when it breaks."""
        if self._config.username is not None and self._token is None:
            await self._authenticate()
        link, start = await self.channels.ready(), place.next_revision
        call = link.stub("Watch").Watch(metadata=(*self._metadata(), *HAS_LEADER))
        try:
            create = rpc.WatchCreateRequest(
                key=prefix.encode(),
                range_end=_end_of(prefix.encode()),
                start_revision=start,
                progress_notify=True,
            )
            await self._within(call.write(rpc.WatchRequest(create_request=create)), self._silence_seconds)
            async with aclosing(self._answers(call)) as answers:
                async for answer in answers:
                    _check(answer, prefix, start)
                    place.stay_in(answer.header.cluster_id)
                    for event in answer.events:
                        yield _changed(event)
                    if not answer.events and not answer.created:
                        yield Progress(answer.header.revision)
        except aio.AioRpcError as error:
            if self._token_expired(error):
                self._token = None
                return
            raise self._failed(link, error) from error
        except StoreUnavailable:
            self.channels.failed(link)
            raise
        finally:
            call.cancel()

    async def _answers(self, call: Any) -> AsyncGenerator[Any, None]:
        """What the server says; when it is silent it is asked, and given up if it stays so."""
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

    async def _within(self, work: Awaitable[Answer], seconds: float) -> Answer:
        """A write to a stream; grpc by itself never ends one whose channel was closed before it began."""
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
            return writing.result()
        except asyncio.InvalidStateError as error:
            raise StoreUnavailable("etcd ended the stream") from error
        finally:
            closing.cancel()
            writing.cancel()
            await asyncio.gather(closing, writing, return_exceptions=True)


@dataclass(slots=True)
class _Place:
    """Where a watch is, and in which cluster."""

    next_revision: int
    cluster: int | None = None

    def stay_in(self, cluster: int) -> int:
        """Raises WentBack when this is another cluster than before: what a restored backup is."""
        if self.cluster is None:
            self.cluster = cluster
        if cluster != self.cluster:
            raise WentBack(f"etcd is another cluster now ({cluster:x}, not {self.cluster:x})")
        return cluster


def _translated(error: aio.AioRpcError, config: EtcdConfig) -> StoreUnavailable | StoreRefused | Compacted:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
        return Compacted(details)
    if code in REFUSALS or (code is grpc.StatusCode.UNAUTHENTICATED and config.username is None):
        return StoreRefused(f"etcd says: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return StoreUnavailable(f"no answer within {config.call_seconds:g} s")
    return StoreUnavailable(f"{details or code.name}")


def _check(answer: Any, prefix: str, start: int) -> None:
    """Raises what an answer on a watch stream says besides events."""
    if answer.compact_revision or (answer.canceled and "compacted" in answer.cancel_reason):
        raise Compacted(f"revision {start} of {prefix} is gone (kept from {answer.compact_revision})")
    if answer.created and answer.header.revision < start - 1:
        raise WentBack(f"etcd went back from revision {start - 1} to {answer.header.revision}")
    if answer.canceled:
        raise StoreUnavailable(f"the watch of {prefix} was ended: {answer.cancel_reason or 'no reason'}")


def _versioned(kv: Any) -> Versioned:
    return Versioned(kv.key.decode(), kv.value, kv.mod_revision, kv.lease)


def _changed(event: Any) -> Changed:
    deleted = event.type == 1  # Event.EventType.DELETE
    value = None if deleted else _versioned(event.kv)
    return Changed(event.kv.key.decode(), value, event.kv.mod_revision)


def _operation(operation: Operation) -> Any:
    match operation:
        case Put(key, value, lease):
            return rpc.RequestOp(request_put=rpc.PutRequest(key=key.encode(), value=value, lease=lease))
        case Delete(key):
            return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key.encode()))


def _end_of(prefix: bytes) -> bytes:
    """The end of the range of all keys with a prefix: the prefix with its last byte raised (etcd's own rule)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
