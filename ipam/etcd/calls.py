"""Calls to etcd's members: each has a deadline, tokens are renewed, another member is asked when one has no answer.

Promises: a call ends within `EtcdConfig.call_seconds`, a refused token aside. What may be asked twice is asked again
elsewhere, and goes on being asked while the members elect a leader; what may not never is, for nobody knows whether the
first one was carried out.
Does not know: keys, what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from ipam.etcd.channels import Channels, Member
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.etcd_messages import rpc
from ipam.failures import Compacted, StoreError, StoreRefused, StoreUnavailable

FIRST_PATIENCE_SECONDS = 1.0
"""How long one member is waited for while there are others: one whose leader has just died holds reads for 7 s (etcd
3.4), and hands proposals to the dead one."""
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
NO_ANSWER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
ELECTION_PAUSE_SECONDS = 0.05
"""Between two calls to members that say that they have no leader; `call_seconds` bounds how many there are."""


class Calls:
    """All unary calls of one store."""

    def __init__(self, config: EtcdConfig) -> None:
        """Connects lazily. Raises ValueError when a TLS file cannot be used."""
        self.config = config
        self.channels = Channels(config)
        self._token: str | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call."""
        return (("token", self._token),) if self._token is not None else ()

    async def must_have_token(self) -> None:
        """Log in, where a name is set and no token is held. Raises StoreError."""
        if self.config.username is not None and self._token is None:
            await self._authenticate()

    async def _authenticate(self) -> None:
        request = rpc.AuthenticateRequest(name=self.config.username, password=self.config.secret())
        link = await self.channels.ready()
        try:
            answer = await link.stub("Auth").Authenticate(request, timeout=self.config.call_seconds)
        except aio.AioRpcError as error:
            raise self.failed(link, error) from error
        self._token = answer.token

    async def once(self, stub: str, method: str, request: Any) -> Any:
        """What must not be carried out twice: asked once, and again only with a fresh token. Raises StoreError."""
        return await self._with_token(lambda: self._once(stub, method, request, self.config.call_seconds))

    async def anywhere(
        self, stub: str, method: str, request: Any, again: Callable[[], None] = lambda: None
    ) -> Any:
        """What changes nothing, or not twice: others are asked when one has no answer, after a call of `again`.

        Raises StoreError.
        """
        return await self._with_token(lambda: self._anywhere(stub, method, request, again))

    async def _with_token(self, call: Callable[[], Awaitable[Any]]) -> Any:
        await self.must_have_token()
        try:
            try:
                return await call()
            except aio.AioRpcError as error:
                if not self._token_expired(error):
                    raise
            await self._authenticate()
            return await call()
        except aio.AioRpcError as error:
            raise translated(error, self.config) from error

    async def _anywhere(self, stub: str, method: str, request: Any, again: Callable[[], None]) -> Any:
        loop = asyncio.get_running_loop()
        end, members = loop.time() + self.config.call_seconds, max(2, len(self.config.endpoints))
        unanswered = 0
        election: aio.AioRpcError | None = None
        while True:
            seconds = end - loop.time()
            if unanswered + 1 < members and len(self.config.endpoints) > 1:
                seconds = min(FIRST_PATIENCE_SECONDS, seconds / 2)
            try:
                return await self._once(stub, method, request, max(seconds, 0.0))
            except aio.AioRpcError as error:
                election = error if electing(error) else election
                pause = ELECTION_PAUSE_SECONDS if electing(error) else 0.0
                unanswered += not pause
                late = loop.time() + pause >= end
                if late or unanswered >= members or error.code() not in NO_ANSWER:
                    if election is not None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                        raise election from error  # what a member did answer says more than that time is up
                    raise
                again()
            await asyncio.sleep(pause)

    async def _once(self, stub: str, method: str, request: Any, seconds: float) -> Any:
        link = await self.channels.ready()
        call: Callable[..., Awaitable[Any]] = getattr(link.stub(stub), method)
        try:
            return await call(request, timeout=seconds, metadata=self.metadata())
        except aio.AioRpcError as error:
            self.failed(link, error)
            raise

    def failed(self, link: Member, error: aio.AioRpcError) -> StoreError:
        """What an error means; the next call goes to another member if this one had no answer."""
        if error.code() in NO_ANSWER:
            self.channels.failed(link)
        return translated(error, self.config)

    def forget_token(self, error: aio.AioRpcError) -> bool:
        """Whether an error only means that the token is old; the next call renews it."""
        if not self._token_expired(error):
            return False
        self._token = None
        return True

    def _token_expired(self, error: aio.AioRpcError) -> bool:
        if self.config.username is None:
            return False
        details = error.details() or ""
        return error.code() is grpc.StatusCode.UNAUTHENTICATED or any(text in details for text in STALE_TOKEN)


def electing(error: aio.AioRpcError) -> bool:
    """Whether a member has answered that it cannot serve just now: no leader, or a new one.

    Such answers are etcd's own (`etcdserver: leader changed`, `etcdserver: no leader`); gRPC's of a member that is not
    there have another text.
    """
    return error.code() is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith("etcdserver: ")


def translated(error: aio.AioRpcError, config: EtcdConfig) -> StoreUnavailable | StoreRefused | Compacted:
    """etcd's answer in our words."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
        return Compacted(details)
    if code in REFUSALS or (code is grpc.StatusCode.UNAUTHENTICATED and config.username is None):
        return StoreRefused(f"etcd says: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return StoreUnavailable(f"no answer within {config.call_seconds:g} s")
    return StoreUnavailable(f"{details or code.name}")
