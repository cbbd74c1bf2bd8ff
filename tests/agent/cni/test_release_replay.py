"""Whatever lies in the journal: what can be released is, what cannot is told, and nothing ends or holds the server."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from agent.cni.attachment import host_interface_of
from agent.cni.endpoint_store import Waits
from agent.cni.release_replay import ATTEMPTS
from agent.netlink.kernel_errors import KernelError
from agent.trouble import Trouble, TroubleKind
from tests.fixtures.tiny_disk import TinyDisk, tiny_disk
from tests.scenes.cni.cni_world import World
from tests.scenes.cni.hanging_store import HangingStore

NOTHING, ONE = (0, 0, 0), (1, 1, 1)
LONGEST_HOLD_SECONDS = 0.1


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.start()
    return made


@asynccontextmanager
async def running(world: World) -> AsyncIterator[asyncio.Task[None]]:
    """The server at work; its first look at the journal is over."""
    ready = asyncio.Event()
    task = asyncio.create_task(world.server.run(ready.set))
    await ready.wait()
    await world.server.release_replay.look()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def recorded(world: World, container: str = "c1") -> Path:
    """An attachment whose DEL is written down, and the datastore back."""
    await world.call("ADD", container, container)
    world.why = "the datastore is away"
    before = set(world.journal())
    assert await world.call("DEL", container, container) == (0, {})
    world.why = None
    (path,) = set(world.journal()) - before
    return path


def troubles(world: World) -> list[Trouble]:
    found = list(world.server.release_replay.troubles())
    assert {trouble.kind for trouble in found} <= {TroubleKind.JOURNAL}
    return found


USUAL = {"cniVersion": "1.1.0", "name": "net", "type": "tortie"}


def release(config: str, **environment: str) -> str:
    words = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "bad", "CNI_IFNAME": "eth0", **environment}
    return json.dumps({"environment": words, "config": config})


TEXTS = {
    "a name that is none": release(json.dumps({**USUAL, "name": {}})),
    "deep": release("[" * 200_000),
    "no configuration": release(""),
    "half a pair in the configuration": release('{"name":"\\ud800"}'),
    "half a pair itself": release("x").replace('"x"', '"\\ud800"'),
    "half a pair in the environment": release(
        json.dumps(USUAL), CNI_ARGS="K8S_POD_NAME=\ud800;K8S_POD_NAMESPACE=a"
    ),
    "a NUL": release(json.dumps(USUAL), CNI_ARGS="K8S_POD_NAME=a\0b"),
    "a path for a name": release(json.dumps(USUAL), CNI_ARGS="K8S_POD_NAME=../../x;K8S_POD_NAMESPACE=.."),
    "an ADD": release(json.dumps(USUAL), CNI_COMMAND="ADD", CNI_NETNS="/run/netns/x"),
    "no verb": release(json.dumps(USUAL), CNI_COMMAND=""),
    "empty": "",
    "half": release(json.dumps(USUAL))[:50],
    "another document": "[]",
}


async def test_every_file_that_is_no_del_is_put_aside_told_and_in_nobodys_way(world: World) -> None:
    path = await recorded(world)
    bad = {path.with_name(f"{at}-bad-eth0.json"): text for at, text in enumerate(TEXTS.values())}
    for file, text in bad.items():
        file.write_text(text)
    path.with_name("999-bad-eth0.json").write_text(
        release(json.dumps({**USUAL, "type": []}))
    )  # a DEL all the same
    named = {
        name: path.with_name(f"9{name}-bad-eth0.json")
        for name in ("fifo", "socket", "directory", "link", "device")
    }
    os.mkfifo(named["fifo"])
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(named["socket"]))
    named["directory"].mkdir()
    named["link"].symlink_to("/dev/zero")
    os.mknod(named["device"], stat.S_IFCHR | 0o600, os.makedev(1, 5))
    async with running(world) as task:
        assert not task.done()
        assert await world.stored() == NOTHING
        found = troubles(world)
        refused = path.parent / "refused"
        assert sorted(file.name for file in refused.iterdir() if file.suffix != ".reason") == sorted(
            file.name for file in (*bad, *named.values())
        )
        assert found[0].about.startswith(f"{refused}/")
        assert all(trouble.evidence for trouble in found)
        assert "remove the file" in found[0].cure
        assert found[-1].evidence == f"{len(bad) + len(named) - 10} more files were put aside"
        assert (await world.call("ADD", "next", "next"))[0] == 0
    assert (world.journal(), [one.name for one in path.parent.iterdir()]) == ([], ["refused"])
    await world.start()
    async with running(world) as task:
        assert (troubles(world), task.done()) == (found, False)
        for file in refused.iterdir():
            file.rmdir() if file.is_dir() else file.unlink()
        await world.server.release_replay.look()
        assert troubles(world) == []


async def test_a_bad_file_is_put_aside_while_the_datastore_is_away_too(world: World) -> None:
    path = await recorded(world)
    path.with_name("1-bad-eth0.json").write_text("{")
    world.why = "the datastore is away"
    for _ in range(2):
        await world.server.release_replay.look()
    assert ([trouble.evidence[:13] for trouble in troubles(world)], world.journal()) == (
        ["not a release"],
        [path],
    )


@contextmanager
def failing(world: World, container: str, error: Exception) -> Iterator[None]:
    """What the kernel says of a container's device is an error meanwhile."""
    known, device = world.pods.owner, host_interface_of("default", container, container)

    async def owner(host_interface: str) -> str | None:
        if host_interface == device:
            raise error
        return await known(host_interface)

    world.pods.owner = owner  # type: ignore[method-assign]
    yield
    world.pods.owner = known  # type: ignore[method-assign]


async def test_a_release_that_fails_as_nobody_foresaw_is_tried_again_and_then_put_aside(world: World) -> None:
    path, good = await recorded(world), await recorded(world, "c2")
    with failing(world, "c1", ZeroDivisionError("of the test")):
        for attempt in range(ATTEMPTS):
            assert path.exists(), attempt
            await world.server.release_replay.look()
            assert not good.exists()
    assert not path.exists()
    (trouble,) = troubles(world)
    assert trouble.evidence == f"carrying it out failed {ATTEMPTS} times: ZeroDivisionError: of the test"


async def test_a_release_that_the_kernel_refuses_is_kept_told_and_tried_until_it_is_done(
    world: World,
) -> None:
    path = await recorded(world)
    with failing(world, "c1", KernelError("device is busy")):
        for attempt in range(ATTEMPTS):
            assert troubles(world) == [], attempt
            await world.server.release_replay.look()
    (trouble,) = troubles(world)
    assert (trouble.about, trouble.evidence) == (str(path), "device is busy")
    await world.server.release_replay.look()
    assert (world.journal(), troubles(world), await world.stored()) == ([], [], NOTHING)


# -- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk() -> Iterator[TinyDisk]:
    with tiny_disk() as made:
        yield made


async def on(disk: TinyDisk, **more: object) -> World:
    made = World(disk.path, **more)  # type: ignore[arg-type]
    await made.start()
    return made


async def test_on_a_read_only_disk_all_is_told_nothing_ends_and_a_new_pod_is_not_risked(
    disk: TinyDisk,
) -> None:
    world = await on(disk)
    path = await recorded(world)
    await recorded(world, "c2")
    bad = path.with_name("1-bad-eth0.json")
    bad.write_text("{")
    disk.read_only(on=True)
    for _ in range(ATTEMPTS):
        await world.server.release_replay.look()
    assert await world.stored() == NOTHING
    said = [str(trouble) for trouble in troubles(world)]
    assert any("its file system is read-only" in text for text in said)
    assert any("cannot be put aside: Read-only file system" in text for text in said)
    assert sum("cannot be taken off: Read-only file system" in text for text in said) == 2
    status, error = await world.call("ADD", "c1", "c1")
    assert (status, error["code"]) == (1, 11)
    assert "the journal does not work" in error["msg"]
    assert (await world.call("ADD", "c3", "c3"))[0] == 0
    disk.read_only(on=False)
    await world.server.release_replay.look()
    assert world.journal() == []
    assert (await world.call("ADD", "c1", "c1"))[0] == 0


def fill(disk: TinyDisk) -> None:
    """Fill it, and let no DEL make room: on a node the records of living pods lie on another one."""
    for record in (disk.path / "attachments").iterdir():
        record.unlink()
    disk.fill()


async def test_on_a_full_disk_a_del_still_frees_and_without_the_datastore_it_is_refused_and_loses_nothing(
    disk: TinyDisk,
) -> None:
    world = await on(disk)
    for container in ("c1", "c2"):
        await world.call("ADD", container, container)
    fill(disk)
    assert await world.call("DEL", "c1", "c1") == (0, {})
    world.why = "the datastore is away"
    status, error = await world.call("DEL", "c2", "c2")
    assert (status, error["code"]) == (1, 11)
    assert "the release cannot be written down" in error["msg"]
    assert (await world.stored(), list((disk.path / "releases").iterdir())) == (ONE, [])
    await world.server.release_replay.look()
    (trouble,) = troubles(world)
    assert "file system is full" in str(trouble)
    world.why = None
    assert await world.call("DEL", "c2", "c2") == (0, {})
    assert await world.stored() == NOTHING


async def test_on_a_full_disk_a_del_waits_for_a_slow_datastore_and_leaves_nothing_half_done(
    disk: TinyDisk,
) -> None:
    store = HangingStore()
    world = await on(disk, store=store, waits=Waits(release=0.01))
    await world.call("ADD")
    fill(disk)
    store.answers.clear()
    asyncio.get_running_loop().call_later(0.1, store.answers.set)
    assert await world.call("DEL") == (0, {})
    assert (await world.stored(), list((disk.path / "releases").iterdir())) == (NOTHING, [])


async def test_a_file_in_place_of_the_journals_directory_is_told_and_ends_when_it_is_gone(
    world: World,
) -> None:
    (world.state / "releases").write_text("")
    async with running(world) as task:
        (trouble, *_) = troubles(world)
        assert (task.done(), "Not a directory" in trouble.evidence) == (False, True)
        status, error = await world.call("ADD")
        assert (status, error["code"]) == (1, 11)
        (world.state / "releases").unlink()
        await world.server.release_replay.look()
        assert troubles(world) == []
        assert (await world.call("ADD"))[0] == 0


# -- very many files --------------------------------------------------------------------------------------------------

FILES, BAD = 100_000, 1_000


async def test_a_hundred_thousand_files_and_bad_ones_among_them_hold_neither_the_loop_nor_a_call() -> None:
    with tiny_disk(64 << 20) as disk:
        world = await on(disk)
        directory = disk.path / "releases"
        directory.mkdir()
        opened = os.open(directory, os.O_RDONLY)
        for number in range(FILES):
            ending = "json" if number < BAD else "txt"
            os.mknod(f"{number:06}-bad-eth0.{ending}", stat.S_IFREG | 0o600, dir_fd=opened)
        os.close(opened)
        path = await recorded(world)
        holding = asyncio.create_task(longest_hold())
        look = asyncio.create_task(world.server.release_replay.look())
        assert (await world.call("ADD", "next", "next"))[0] == 0
        assert await world.call("DEL", "next", "next") == (0, {})
        await look
        holding.cancel()
        longest = await holding
        print(f"{FILES} files, {BAD} of them bad: the loop was held for {longest * 1000:.1f} ms at most")
        assert longest < LONGEST_HOLD_SECONDS
        assert (path.exists(), await world.stored()) == (False, NOTHING)
        assert troubles(world)[-1].evidence == f"{BAD - 10} more files at least were put aside"


async def longest_hold() -> float:
    """For how long at most the loop was held until this is cancelled, by its thread's own time."""
    longest = 0.0
    try:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)
    except asyncio.CancelledError:
        return longest
