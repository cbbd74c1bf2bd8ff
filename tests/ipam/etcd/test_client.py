"""The store over a real etcd that is killed, frozen, wiped or asks for passwords."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress

import pytest

from ipam.etcd.channels import OPTIONS
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.etcd_messages import rpc
from ipam.etcd.store import Changed, Committed, Put, Store, WatchProgress
from ipam.failures import (
    AnswerTooLarge,
    Compacted,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TakesNoWrites,
)
from tests.fixtures.etcd import Etcd, start_etcd

BACK_SECONDS = 5.0
"""A second or two, and what a loaded machine takes besides; it was the watch's patience of 15 s."""
QUOTA_BYTES, LARGE_BYTES = 4 << 20, 1 << 19


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


async def put(store: Store, key: str, value: bytes = b"1") -> int:
    outcome = await store.commit((), (Put(key, value),))
    assert isinstance(outcome, Committed)
    return outcome.revision


class Follower:
    """Collects what a watch says, and rings for each event."""

    def __init__(self, store: Store, prefix: str, start: int) -> None:
        self.seen: list[str] = []
        self.heartbeats = 0
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._run(store, prefix, start))

    async def _run(self, store: Store, prefix: str, start: int) -> None:
        async with aclosing(store.watch(prefix, start)) as events:  # type: ignore[type-var]
            async for event in events:
                async with self._news:
                    match event:
                        case Changed(key=key):
                            self.seen.append(key.removeprefix(prefix))
                        case WatchProgress():
                            self.heartbeats += 1
                    self._news.notify_all()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: len(self.seen) >= count)

    async def until_heartbeat(self) -> None:
        before = self.heartbeats
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: self.heartbeats > before)

    async def ended(self) -> None:
        async with asyncio.timeout(30):
            await self._task

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


PROXIES = ("grpc_proxy", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
ADDRESS_PROXY = ("GRPC_ADDRESS_HTTP_PROXY", "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_no_variable_of_the_environment_puts_a_proxy_before_etcd(
    server: Etcd, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name, value in zip(ADDRESS_PROXY, ("127.0.0.1:9", "127.0.0.0/8,::1/128"), strict=True):
        monkeypatch.setenv(name, value)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    store = EtcdStore(EtcdConfig((server.endpoint.replace("127.0.0.1", host),)))
    try:
        await put(store, "/proxy")
    finally:
        await store.close()


async def test_a_watch_loses_and_invents_nothing_when_etcd_restarts(server: Etcd) -> None:
    store, writer = EtcdStore(EtcdConfig((server.endpoint,))), EtcdStore(EtcdConfig((server.endpoint,)))
    start = await put(writer, "/restart-before")
    follower = Follower(store, "/restart/", start + 1)
    for number in range(3):
        await put(writer, f"/restart/{number}")
    await follower.until(3)
    server.restart()
    for number in range(3, 6):
        await put(writer, f"/restart/{number}")
    await follower.until(6)
    await put(writer, "/restart/6")
    await follower.until(7)
    assert follower.seen == [str(number) for number in range(7)]
    await follower.stop()
    await store.close()
    await writer.close()


async def test_a_silent_watch_asks_for_a_sign_of_life(server: Etcd) -> None:
    store = EtcdStore(EtcdConfig((server.endpoint,)), heartbeat_seconds=0.1)
    follower = Follower(store, "/silent/", await put(store, "/silent-before") + 1)
    await follower.until_heartbeat()
    await follower.until_heartbeat()
    await follower.stop()
    await store.close()


async def test_a_frozen_etcd_is_noticed_and_the_watch_goes_on_after_it(server: Etcd) -> None:
    store = EtcdStore(EtcdConfig((server.endpoint,), call_seconds=1.0))
    patient = EtcdStore(EtcdConfig((server.endpoint,)), heartbeat_seconds=0.1, silence_seconds=2.0)
    revision = await put(patient, "/frozen-before")
    follower = Follower(patient, "/frozen/", revision + 1)
    hasty = Follower(
        EtcdStore(
            EtcdConfig((server.endpoint,), patience_seconds=1.0), heartbeat_seconds=0.1, silence_seconds=2.0
        ),
        "/frozen/",
        revision + 1,
    )
    await follower.until_heartbeat()
    await hasty.until_heartbeat()
    server.freeze()
    try:
        with pytest.raises(StoreUnavailable, match=r"no answer within 1 s"):
            await store.get("/frozen/a")
        with pytest.raises(StoreUnavailable):
            await hasty.ended()
    finally:
        server.thaw()
    await put(patient, "/frozen/a")
    await follower.until(1)
    assert follower.seen == ["a"]
    await follower.stop()
    await patient.close()
    await store.close()


async def test_revisions_that_went_back_end_a_watch_so_that_it_is_listed_again() -> None:
    with start_etcd() as server:
        store = EtcdStore(EtcdConfig((server.endpoint,)))
        for number in range(20):
            revision = await put(store, f"/wiped/{number}")
        follower = Follower(store, "/wiped/", revision - 1)
        await follower.until(2)
        server.wipe()
        with pytest.raises(Compacted, match="went back"):
            await follower.ended()
        await store.close()


@asynccontextmanager
async def guarded_etcd() -> AsyncIterator[Etcd]:
    """An etcd that asks for passwords; root's is `secret`, and `reader` may read /mine/ with the same."""
    with start_etcd() as server:
        admin = EtcdStore(EtcdConfig((server.endpoint,)))
        for method, request in (
            ("UserAdd", rpc.AuthUserAddRequest(name="root", password="secret")),
            ("RoleAdd", rpc.AuthRoleAddRequest(name="root")),
            ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user="root", role="root")),
            ("UserAdd", rpc.AuthUserAddRequest(name="reader", password="secret")),
            ("RoleAdd", rpc.AuthRoleAddRequest(name="reader")),
            ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user="reader", role="reader")),
            ("AuthEnable", rpc.AuthEnableRequest()),
        ):
            await admin._calls.call_once("Auth", method, request)
        with pytest.raises(StoreError):
            await admin.get("/auth/a")
        await admin.close()
        yield server


def of_root(server: Etcd) -> EtcdStore:
    return EtcdStore(EtcdConfig((server.endpoint,), username="root", password="secret"))


async def test_passwords_are_used_and_forgotten_tokens_renewed() -> None:
    async with guarded_etcd() as server:
        wrong = EtcdStore(EtcdConfig((server.endpoint,), username="root", password="wrong"))
        with pytest.raises(StoreRefused, match="authentication failed"):
            await wrong.get("/auth/a")
        await wrong.close()
        store = of_root(server)
        follower = Follower(store, "/auth/", await put(store, "/auth-before") + 1)
        await put(store, "/auth/a")
        await follower.until(1)
        server.restart()  # simple tokens do not survive it
        await put(store, "/auth/b")
        await follower.until(2)
        assert follower.seen == ["a", "b"]
        await follower.stop()
        await store.close()


async def test_watches_whose_token_was_forgotten_are_back_at_once_and_log_in_once() -> None:
    """etcd 3.4 cancels them for want of a right, and nothing else of this client asks for a new token."""
    async with guarded_etcd() as server:
        store, before = of_root(server), of_root(server)
        start = await put(before, "/auth-before") + 1
        followers = [Follower(store, f"/auth/{number}/", start) for number in range(8)]
        for number in range(8):
            await put(before, f"/auth/{number}/a")
        for follower in followers:
            await follower.until(1)
        logins, login = 0, store._calls._authenticate

        async def counted() -> None:
            nonlocal logins
            logins += 1
            await login()

        store._calls._authenticate = counted  # type: ignore[method-assign]
        server.control(
            "--user=root:secret", "defrag"
        )  # else it may log in again whom its log says have logged in
        server.restart()
        began = time.monotonic()
        for number in range(8):
            await put(before, f"/auth/{number}/b")
        for follower in followers:
            await follower.until(2)
        assert time.monotonic() - began < BACK_SECONDS
        assert (logins, store.unheard) == (1, {})
        for follower in followers:
            await follower.stop()
        await store.close()
        await before.close()


async def test_a_watch_without_the_right_to_it_is_refused_after_one_more_login() -> None:
    async with guarded_etcd() as server:
        reader = EtcdStore(EtcdConfig((server.endpoint,), username="reader", password="secret"))
        follower = Follower(reader, "/other/", 1)
        with pytest.raises(StoreRefused, match="permission denied"):
            await follower.ended()
        await reader.close()


async def fill(store: Store) -> None:
    """Write until etcd has no space."""
    for number in range(20 * QUOTA_BYTES // LARGE_BYTES):
        await put(store, "/space/a", bytes([number % 256]) * LARGE_BYTES)


async def test_an_etcd_without_space_is_known_by_its_alarm_and_reads_go_on() -> None:
    with start_etcd(flags=("--quota-backend-bytes", str(QUOTA_BYTES))) as server:
        store = EtcdStore(EtcdConfig((server.endpoint,)))
        assert await store.health() == ()
        with pytest.raises(TakesNoWrites, match="etcd takes no writes: NOSPACE"):
            await fill(store)
        assert store.doubtful.is_set()
        other = EtcdStore(EtcdConfig((server.endpoint,)))
        assert await other.health() == ("NOSPACE",)
        found = await other.get("/space/a")
        assert found is not None
        server.compact(found.revision)
        server.control("defrag")
        server.control("alarm", "disarm")
        assert await other.health() == ()
        await put(store, "/space/b")
        await store.close()
        await other.close()


async def test_a_refused_connection_is_said_at_once_and_so_is_an_answer_after_it() -> None:
    with start_etcd() as server:
        store = EtcdStore(EtcdConfig((server.endpoint,)))
        assert await store.health() == ()
        server.kill()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"^connection refused$"):
            await store.health()
        assert time.monotonic() - began < 1.0
        server.start()
        async with asyncio.timeout(BACK_SECONDS):
            while True:
                with suppress(StoreUnavailable):
                    await store.health()
                    break
        await store.close()


async def test_both_sides_prove_themselves_over_tls() -> None:
    with start_etcd(tls=True) as server, start_etcd(tls=True) as stranger:
        ca, cert, key = server.file("ca.pem"), server.file("client.pem"), server.file("client.key")
        store = EtcdStore(EtcdConfig((server.endpoint,), ca, cert, key))
        follower = Follower(store, "/tls/", await put(store, "/tls-before") + 1)
        await put(store, "/tls/a")
        await follower.until(1)
        await follower.stop()
        await store.close()
        for config in (
            EtcdConfig((server.endpoint,), ca, call_seconds=0.5),
            EtcdConfig((stranger.endpoint,), ca, cert, key, call_seconds=0.5),
        ):
            refused = EtcdStore(config)
            with pytest.raises(StoreUnavailable):
                await refused.get("/tls/a")
            await refused.close()


def test_a_tls_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="etcd TLS file /nowhere/ca: No such file"):
        EtcdStore(EtcdConfig(("https://127.0.0.1:1",), "/nowhere/ca"))


async def test_an_etcd_that_is_not_there_is_said_so_within_the_deadline() -> None:
    store = EtcdStore(EtcdConfig(("127.0.0.1:1",), call_seconds=0.2))
    with pytest.raises(StoreUnavailable):
        await store.get("/a")
    await store.close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"endpoints": ()}, "name at least one"),
        ({"endpoints": ("foo:bar",)}, "etcd endpoint 'foo:bar': the port must be a number"),
        ({"endpoints": ("ftp://a:1",)}, "begins with http:// or https://"),
        ({"endpoints": ("http://a:1/path",)}, "must be a host and a port"),
        ({"endpoints": ("http://10.0.0.1:1", "https://10.0.0.2:1")}, "cannot be mixed"),
        ({"endpoints": ("http://root:secret@a:1",)}, "no user or password in an endpoint"),
        ({"endpoints": ("a:1",), "cert_file": "x"}, "go together"),
        ({"endpoints": ("a:1",), "username": "x"}, "go together"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        EtcdConfig(**settings)  # type: ignore[arg-type]


def test_each_endpoint_has_a_target_and_a_name_of_its_own() -> None:
    config = EtcdConfig(("https://10.0.0.1:2379", "https://[fd00::2]", "https://etcd.example:1"))
    assert config.targets == (
        ("ipv4:10.0.0.1:2379", "10.0.0.1"),
        ("ipv6:[fd00::2]:2379", "fd00::2"),
        ("dns:///etcd.example:1", "etcd.example"),
    )


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(EtcdConfig(("a",), username="u", password="secret"))


async def test_values_of_any_size_are_listed_and_a_watch_of_too_many_ends_so_that_they_are(
    server: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = dict(OPTIONS) | {"grpc.max_receive_message_length": 1 << 20}
    monkeypatch.setattr("ipam.etcd.channels.OPTIONS", tuple(small.items()))
    store = EtcdStore(EtcdConfig((server.endpoint,)))
    try:
        wanted = {f"/large/{number}": b"x" * 200_000 for number in range(12)}
        before = (await store.list("/large/")).revision
        for key, value in wanted.items():
            await store.commit((), (Put(key, value),))
        listed = await store.list("/large/")
        assert {key: found.value for key, found in listed.values.items()} == wanted
        events = store.watch("/large/", before + 1)
        with pytest.raises(AnswerTooLarge):
            await asyncio.wait_for(anext(events), 20)
    finally:
        await store.close()
