"""Answers the shims: one connection, one call. The shell around specification, allocation and the pod's network.

Promises: ADD is all or nothing, and the same call again gets the same answer; DEL is local first, always succeeds, and
what the datastore could not take is written down and carried out later; calls for one interface wait for each other,
all others run side by side. The verb programs no route: it adds a fact and waits until the reconciler has settled it.
Does not know: netlink, etcd, who the reconciler is.

A call: `NAME=value` of each variable, each ended by a zero, one more zero, then standard input to the end. The answer:
the plugin's exit status as one digit, then its standard output.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import structlog

from agent.clock import Clock
from agent.cni import spec
from agent.cni.attachment import (
    HOST_MAC,
    Attachment,
    chosen_mac,
    endpoint,
    handle,
    host_interface,
    namespace,
    stored_name,
)
from agent.cni.journal import Journal, JournalFull, Release
from agent.cni.ports import ServerPorts
from agent.cni.spec import MOST_STDIN_BYTES, CniError, Code, Request, Result, Verb
from agent.control import peer_is_root
from agent.dataplane.kernel import KernelError
from agent.datastore.resources import PLURALS, WorkloadEndpoint, decode, encode
from ipam.allocator import Companion
from ipam.errors import IpamError, Refused, StoreUnavailable
from ipam.keys import resource_key
from ipam.model import AddressRequest, Assignment
from ipam.store import Delete, Put, Unchanged

MOST_ENVIRONMENT_BYTES = 64 << 10
MOST_CALLS = 512
"""Calls under way at once; more are told to try again."""
READ_SECONDS = 5.0
SETTLE_SECONDS = 10.0
"""How long ADD waits for the host's route."""
RELEASE_SECONDS = 3.0
"""How long DEL tries the datastore before it writes the release down."""
REPLAY_SECONDS = 2.0

log = structlog.get_logger()


class CniServer:
    """The unix socket that the shims call."""

    def __init__(self, path: Path, ports: ServerPorts, journal: Journal, clock: Clock) -> None:
        self._path = path
        self._ports = ports
        self._journal = journal
        self._clock = clock
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        """Host interface -> its lock and how many hold or await it."""
        self._calls = 0
        self._recorded = asyncio.Event()
        self._recorded.set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._serve, self._path, limit=MOST_STDIN_BYTES)
        finally:
            os.umask(before)
        async with server, asyncio.TaskGroup() as group:
            group.create_task(self._replay())
            ready()
            await server.serve_forever()

    # -- a call -------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not peer_is_root(writer.get_extra_info("socket")):
                return
            environment, stdin = await self._read(reader)
            status, output = await self.call(environment, stdin)
            writer.write(str(status).encode() + output)
            await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:
            log.warning("cni.call_broken", why=str(error))
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
        most = MOST_ENVIRONMENT_BYTES + MOST_STDIN_BYTES + 1
        data = bytearray()
        async with asyncio.timeout(READ_SECONDS):
            while len(data) <= most and (part := await reader.read(1 << 16)):
                data += part
        head, _, stdin = bytes(data).partition(b"\0\0")
        pairs = (item.decode(errors="replace").partition("=") for item in head.split(b"\0"))
        return {name: value for name, equals, value in pairs if equals}, stdin

    async def call(self, environment: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
        """One invocation of the plugin: exit status and standard output."""
        try:
            request = spec.parse(environment, stdin)
            if request.verb is Verb.VERSION:
                return 0, spec.render_versions(request.version)
            if self._calls >= MOST_CALLS:
                raise CniError(Code.TRY_AGAIN, f"{MOST_CALLS} calls are under way already; try again")
            self._calls += 1
            try:
                async with self._alone(host_interface(request)):
                    if request.verb is Verb.ADD:
                        return 0, spec.render(await self._add(request), request.version)
                    await self._del(request, Release(_kept(environment), stdin.decode(errors="replace")))
                    return 0, b""
            finally:
                self._calls -= 1
        except CniError as error:
            log.warning(
                "cni.refused", verb=environment.get("CNI_COMMAND"), code=error.code.value, why=error.message
            )
            return 1, spec.render_error(error, spec.version_of(stdin))

    @asynccontextmanager
    async def _alone(self, interface: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(interface, (asyncio.Lock(), 0))
        self._locks[interface] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(interface)
            if users > 1:
                self._locks[interface] = (lock, users - 1)

    def _key(self, request: Request) -> str:
        name = stored_name(request, self._ports.node)
        return resource_key(PLURALS["WorkloadEndpoint"], name, namespace(request))

    # -- ADD ----------------------------------------------------------------------------------------------------------

    async def _add(self, request: Request) -> Result:
        known = self._ports.known(self._key(request))
        interface = host_interface(request)
        if (
            known is not None
            and known.spec.container_id == request.container_id
            and self._ports.pods.exists(interface)
        ):
            return self._result(request, known, request.mtu or self._ports.mtu())
        if (why := self._ports.not_ready()) is not None:
            raise CniError(Code.TRY_AGAIN, f"this node cannot attach pods yet: {why}")
        made, mtu = await self._allocate(request), request.mtu or self._ports.mtu()
        try:
            wish = Attachment(
                interface, request.interface, request.netns, made.spec.mac or "", mtu, made.addresses
            )
            await self._ports.pods.attach(wish)
            self._ports.adopt(made)
            await self._ports.settled(made.addresses, SETTLE_SECONDS)
        except BaseException as error:
            await self._undo(request, made)
            if isinstance(error, KernelError | TimeoutError):
                raise CniError(
                    Code.IO_FAILURE, f"{request.interface} could not be attached: {error}"
                ) from error
            raise
        log.info(
            "cni.added",
            pod=request.pod or request.container_id,
            address=made.spec.ip_networks[0],
            device=interface,
        )
        return self._result(request, made, mtu)

    async def _allocate(self, request: Request) -> WorkloadEndpoint:
        """Addresses and endpoint, in one transaction."""
        node, stamp = self._ports.node, self._clock.wall()
        mac = chosen_mac(os.urandom(6))
        # Calico's words, and two of ours by which the collector can prove that a pod is gone.
        about = {"node": node, "timestamp": stamp.strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")}
        about |= {"boot": self._ports.boot_id, "netns": request.netns}
        if request.pod is not None and request.namespace is not None:
            about |= {"pod": request.pod, "namespace": request.namespace}
        wanted = AddressRequest(
            handle=handle(request),
            node=node,
            labels=self._ports.labels(),
            pools=request.pools,
            secondary=tuple(sorted(about.items())),
        )
        written: list[WorkloadEndpoint] = []

        def companion(assignments: tuple[Assignment, ...]) -> Companion:
            addresses = [item.address for item in assignments if isinstance(item.address, IPv4Address)]
            written.append(endpoint(request, node, mac, addresses, stamp.strftime("%Y-%m-%dT%H:%M:%SZ")))
            key = self._key(request)
            return Companion((), (Put(key, encode(written[-1])),), (Delete(key),))

        try:
            assigned = await self._ports.allocator.assign(wanted, companion)
        except StoreUnavailable as error:
            raise CniError(Code.TRY_AGAIN, f"the datastore is away: {error}") from error
        except Refused as error:
            raise CniError(Code.REFUSED, str(error)) from error
        except IpamError as error:
            raise CniError(Code.TRY_AGAIN, str(error)) from error
        addresses = [item.address for item in assigned if isinstance(item.address, IPv4Address)]
        if written and list(written[-1].addresses) == addresses:
            return written[-1]
        # The handle held its addresses already: its endpoint was written with them, or is written anew.
        stored = await self._stored(request)
        if stored is not None and list(stored.addresses) == addresses:
            return stored
        made = endpoint(request, node, mac, addresses, stamp.strftime("%Y-%m-%dT%H:%M:%SZ"))
        try:
            await self._ports.store.commit((), (Put(self._key(request), encode(made)),))
        except IpamError as error:
            raise CniError(Code.TRY_AGAIN, str(error)) from error
        return made

    async def _stored(self, request: Request) -> WorkloadEndpoint | None:
        try:
            value = await self._ports.store.get(self._key(request))
        except IpamError as error:
            raise CniError(Code.TRY_AGAIN, str(error)) from error
        if value is None:
            return None
        found = decode(WorkloadEndpoint, value.value, value.revision)
        assert isinstance(found, WorkloadEndpoint)
        return found if found.spec.container_id == request.container_id else None

    async def _undo(self, request: Request, made: WorkloadEndpoint) -> None:
        """Back to before: device, fact, addresses and endpoint, whatever of it there is."""
        with suppress(KernelError):
            await self._ports.pods.detach(made.spec.interface_name)
        self._ports.forget(made)
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._release(request)
        except (IpamError, TimeoutError) as error:
            # The runtime calls DEL after a failed ADD; until then the handle says whose the address is.
            log.warning("cni.undo_incomplete", container=request.container_id, why=str(error))

    def _result(self, request: Request, made: WorkloadEndpoint, mtu: int) -> Result:
        return Result(
            host_interface=made.spec.interface_name,
            host_mac=HOST_MAC,
            interface=request.interface,
            mac=made.spec.mac or "",
            netns=request.netns,
            mtu=mtu,
            addresses=made.addresses,
        )

    # -- DEL ----------------------------------------------------------------------------------------------------------

    async def _del(self, request: Request, release: Release) -> None:
        known = self._ports.known(self._key(request))
        if known is None or known.spec.container_id == request.container_id:
            # A later container of the same name owns the device now: then it stays.
            try:
                await self._ports.pods.detach(host_interface(request))
            except KernelError as error:
                raise CniError(
                    Code.IO_FAILURE, f"{host_interface(request)} could not be removed: {error}"
                ) from error
            if known is not None:
                self._ports.forget(known)
        try:
            if (why := self._ports.not_ready()) is not None:
                raise StoreUnavailable(why)
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._release(request)
        except (IpamError, TimeoutError) as error:
            self._record(release, str(error))
        log.info("cni.deleted", pod=request.pod or request.container_id)

    def _record(self, release: Release, why: str) -> None:
        try:
            self._journal.record(release, int(self._clock.wall().timestamp() * 1e9))
        except (JournalFull, OSError) as error:
            raise CniError(Code.TRY_AGAIN, f"the release cannot be written down: {error}") from error
        self._recorded.set()
        log.warning("cni.release_recorded", container=release.environment["CNI_CONTAINERID"], why=why)

    async def _release(self, request: Request) -> None:
        """Addresses and endpoint, in one transaction. Raises IpamError."""
        key = self._key(request)
        value = await self._ports.store.get(key)
        companion = Companion()
        if value is not None:
            stored = decode(WorkloadEndpoint, value.value, value.revision)
            assert isinstance(stored, WorkloadEndpoint)
            if stored.spec.container_id == request.container_id:
                companion = Companion((Unchanged(key, value.revision),), (Delete(key),))
        await self._ports.allocator.release_handle(handle(request), companion)

    async def _replay(self) -> None:
        """Carry out what was written down, by this agent, by an earlier one or by a shim that found none."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REPLAY_SECONDS):
                    await self._recorded.wait()
            self._recorded.clear()
            await self.replay()

    async def replay(self) -> None:
        """One look at the journal; stops at the first release that cannot be carried out now."""
        if self._ports.not_ready() is not None:
            return
        for path, release in self._journal.pending(_unreadable):
            try:
                request = spec.parse(release.environment, release.config.encode())
                async with self._alone(host_interface(request)):
                    await self._replay_one(request)
            except (CniError, IpamError, KernelError) as error:
                log.warning("cni.replay_failed", file=path.name, why=str(error))
                return
            self._journal.done(path)
            log.info("cni.release_replayed", container=request.container_id)

    async def _replay_one(self, request: Request) -> None:
        known = self._ports.known(self._key(request))
        if known is None or known.spec.container_id == request.container_id:
            await self._ports.pods.detach(host_interface(request))
            if known is not None:
                self._ports.forget(known)
        await self._release(request)


def _kept(environment: Mapping[str, str]) -> dict[str, str]:
    """What a release needs of the environment; the rest may hold anything."""
    return {name: environment[name] for name in sorted(environment) if name.startswith("CNI_")}


def _unreadable(path: Path, why: str) -> None:
    log.error(
        "cni.release_unreadable", file=str(path), why=why, hint="see what it releases, then remove it by hand"
    )
