"""Connections to etcd's members: one each, so each proves its own name; a call goes to one that is up.

Promises: the member in use stays in use until it fails; then the next one that is connected takes over at once. TLS
files are looked at again before each call: new ones that fit together replace all connections, others change nothing
and `trouble` says why. Does not know: what is called.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import grpc
from grpc import aio

from ipam.etcd.certificate import valid_until
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.etcd_messages import rpc
from ipam.failures import StoreUnavailable

MOST_MESSAGE_BYTES = 256 << 20
OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
)
"""Without ping_timeout a frozen server is not noticed for minutes; a shared subchannel would outlive its files. And
`http_proxy`, which a machine may have for its package manager, is no way to the datastore."""

EXPIRES_SOON = timedelta(days=14)
"""A certificate that ends within this time is a warning."""

Stamp = tuple[tuple[int, int, int], ...]
"""Modification time, inode and size of each TLS file."""


@dataclass(slots=True)
class Member:
    """The connection to one member of the cluster."""

    channel: Any
    _stubs: dict[str, Any] = field(default_factory=dict)

    def stub(self, name: str) -> Any:
        """The gRPC stub of one of etcd's services: `KV`, `Watch`, `Lease`, `Auth`."""
        if name not in self._stubs:
            self._stubs[name] = getattr(rpc, f"{name}Stub")(self.channel)
        return self._stubs[name]

    @property
    def state(self) -> Any:
        """gRPC's state of the connection; asking makes an idle one connect."""
        return self.channel.get_state(try_to_connect=True)


class Channels:
    """The connections to all members, and the TLS files they were made with."""

    def __init__(self, config: EtcdConfig) -> None:
        """Connects lazily. Raises ValueError when a TLS file cannot be used."""
        self._config = config
        self._stamp = self._tried = _stamp(config)
        self._credentials = _credentials(config)
        self.expiries: Mapping[str, datetime] = _expiries(config)
        """TLS file -> until when its first certificate is valid."""
        self.trouble: str | None = None
        """Why newer TLS files are not used."""
        self.rotations = 0
        """How often TLS files were taken anew."""
        self.watch_restarts = 0
        """How often a watch had to be made anew."""
        self._members: list[Member] = []
        self._first = 0
        """Which member is asked first."""
        self._closing: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()
        """Set once all connections are given up."""

    @property
    def endpoint(self) -> str:
        """The endpoint of the member in use, or of the one that is tried first."""
        return self._config.endpoints[self._first]

    async def ready(self) -> Member:
        """Wait for a connected member. Raises StoreUnavailable after `EtcdConfig.call_seconds`."""
        try:
            async with asyncio.timeout(self._config.call_seconds):
                while True:
                    if self.closed.is_set():
                        raise StoreUnavailable("this connection to etcd was closed")
                    self._refresh()
                    members = self._opened()
                    states = [member.state for member in members]
                    for number in range(len(members)):
                        at = (self._first + number) % len(members)
                        if states[at] is grpc.ChannelConnectivity.READY:
                            self._first = at
                            return members[at]
                    await self._any_change(members, states)
        except TimeoutError:
            raise StoreUnavailable(
                f"no answer within {self._config.call_seconds:g} s from {', '.join(self._config.endpoints)}"
                f"{f' ({self.trouble})' if self.trouble else ''}"
            ) from None

    def in_order(self) -> tuple[Member, ...]:
        """All members, connected or not, the one in use before the others. Raises StoreUnavailable once closed."""
        if self.closed.is_set():
            raise StoreUnavailable("this connection to etcd was closed")
        self._refresh()
        members = self._opened()
        return (*members[self._first :], *members[: self._first])

    def failed(self, member: Member) -> None:
        """Note that a call to a member had no answer: another member is tried first from now on."""
        if member in self._members and self._members.index(member) == self._first:
            self._first = (self._first + 1) % len(self._members)

    async def _any_change(self, members: list[Member], states: list[Any]) -> None:
        """Wait until the state of some connection is not the one that was seen, or all are closed."""
        waits = [
            asyncio.ensure_future(member.channel.wait_for_state_change(state))
            for member, state in zip(members, states, strict=True)
        ]
        waits.append(asyncio.ensure_future(self.closed.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _opened(self) -> list[Member]:
        if not self._members:  # made inside the running loop, which grpc.aio binds them to
            for target, authority in self._config.targets:
                options: list[tuple[str, int | str]] = [*OPTIONS]
                if self._credentials is None:
                    channel = aio.insecure_channel(target, options=options)
                else:
                    options.append(("grpc.default_authority", authority))
                    channel = aio.secure_channel(target, self._credentials, options=options)
                self._members.append(Member(channel))
        return self._members

    def _refresh(self) -> None:
        """Connect anew with TLS files that changed, if they can be used; else say in `trouble` why not."""
        if not self._config.secure or (stamp := _stamp(self._config)) in (self._stamp, self._tried):
            return
        self._tried = stamp
        try:
            self._credentials, self.expiries = _credentials(self._config), _expiries(self._config)
        except ValueError as error:
            self.trouble = f"{error}; the former files stay in use"
            return
        self._stamp, self.trouble = stamp, None
        self.rotations += 1
        old, self._members = self._members, []
        for member in old:
            closing = asyncio.create_task(member.channel.close(self._config.call_seconds))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def status(self) -> dict[str, Any]:
        """The member in use and the validity of the certificates, for `tortie status`."""
        return {
            "endpoint": self.endpoint,
            "certificates": dict(self.expiries),
            "certificates_trouble": self.trouble,
            "rotations": self.rotations,
        }

    def warnings(self, now: datetime) -> list[str]:
        """A sentence for each certificate that ends soon, and for TLS files that cannot be used."""
        found = [self.trouble] if self.trouble is not None else []
        for path, until in self.expiries.items():
            if until - now < EXPIRES_SOON:
                word = "has expired" if until <= now else "expires"
                found.append(
                    f"etcd TLS file {path} {word} at {until:%Y-%m-%d %H:%M} UTC; put a new one in its place"
                )
        return found

    async def close(self) -> None:
        """Close every connection; calls and watches under way raise StoreUnavailable."""
        self.closed.set()
        members, self._members = self._members, []
        for closing in tuple(self._closing):
            closing.cancel()
            with suppress(asyncio.CancelledError):
                await closing
        for member in members:
            await member.channel.close()


def _stamp(config: EtcdConfig) -> Stamp:
    """What tells the present TLS files from other ones; empty while one is missing."""
    found = []
    for path in filter(None, (config.ca_file, config.cert_file, config.key_file)):
        try:
            status = os.stat(path)
        except OSError:
            return ()
        found.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(found)


def _credentials(config: EtcdConfig) -> Any:
    """gRPC's credentials out of the TLS files; None without TLS.

    Raises ValueError when a file cannot be read or holds no PEM, or certificate and key are not a pair. OpenSSL is
    asked first: gRPC would only fail to connect, and not say why.
    """
    if not config.secure:
        return None
    ca, key, cert = (config.read(path) for path in (config.ca_file, config.key_file, config.cert_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca is not None:
            context.load_verify_locations(cadata=ca.decode())
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        raise ValueError(f"etcd TLS file {config.ca_file}: holds no certificate in PEM form") from None
    if config.cert_file is not None:
        try:
            context.load_cert_chain(config.cert_file, config.key_file, password=lambda: b"")
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            raise ValueError(
                f"etcd TLS files {config.cert_file} and {config.key_file}: not a certificate and its own key "
                "without a password, in PEM form"
            ) from None
    return grpc.ssl_channel_credentials(ca, key, cert)


def _expiries(config: EtcdConfig) -> dict[str, datetime]:
    """TLS file -> until when its first certificate is valid."""
    found = {}
    for path in (config.ca_file, config.cert_file) if config.secure else ():
        text = (config.read(path) or b"").decode(errors="replace")
        if path is not None and (until := valid_until(text)) is not None:
            found[path] = until
    return found
