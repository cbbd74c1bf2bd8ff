"""A path that names no pod's namespace is refused at once, whatever it names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.cni.attachment import Attachment, NoNamespace
from agent.cni.pod.pod_network import NetlinkPodNetwork
from agent.lab.fabric import make_namespace, remove_namespace
from agent.netlink.namespaces import HOME, entered, is_hosts, open_namespace
from tests.fixtures.namespace import fresh_namespace, ip
from tests.fixtures.odd_files import alarm, device, listening_socket

__all__ = ["alarm"]

pytestmark = pytest.mark.usefixtures("alarm")

HOST = "cali0123456789a"


def to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a FIFO": (os.mkfifo, "no network namespace"),
    "a socket": (listening_socket, "no network namespace"),
    "a device": (device, "no network namespace"),
    "a directory": (Path.mkdir, "no network namespace"),
    "a file": (Path.touch, "no network namespace"),
    "nothing": (lambda path: None, "No such file or directory"),
    "a dangling link": (to("nowhere"), "No such file or directory"),
    "below a file": (to("/proc/self/stat/net"), "Not a directory"),
    "another kind of namespace": (to("/proc/self/ns/mnt"), "a namespace, but none of the network"),
    "a process's directory": (to("/proc/self"), "no network namespace"),
    "an open file": (to("/proc/self/fd/0"), "no network namespace"),
    "the agent's thread's": (to(str(HOME)), "the host itself"),
    "the machine's": (to("/proc/1/ns/net"), "the host itself|Permission denied"),
}


@pytest.fixture(scope="module", autouse=True)
def home() -> Iterator[None]:
    """A namespace of its own, in which these tests stay until the last of them."""
    with fresh_namespace():
        yield


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A path that is no pod's namespace, and what is said of it."""
    make, why = ODD[request.param]
    path = tmp_path / "netns"
    make(path)
    return str(path), why


def attachment(netns: str) -> Attachment:
    return Attachment(HOST, "eth0", netns, "02:00:00:00:00:07", 1450, (), "c1")


async def test_what_is_no_pods_namespace_is_said_at_once_and_nothing_is_made(odd: tuple[str, str]) -> None:
    path, why = odd
    with suppress(OSError):
        opened = open_namespace(path)  # or the machine would get a device below
        assert is_hosts(opened)
        os.close(opened)
    pods, before = NetlinkPodNetwork(), ip("-br link")
    descriptors = len(os.listdir("/proc/self/fd"))
    for call in (
        lambda: pods.make_pair(attachment(path)),
        lambda: pods.configure_pod(attachment(path)),
        lambda: pods.state(path, "eth0", HOST),
    ):
        with pytest.raises(NoNamespace, match=why):
            await call()
    assert ip("-br link") == before
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    pods.close()


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "\ud800"])
async def test_a_text_that_is_no_path_is_refused_too(path: str) -> None:
    pods = NetlinkPodNetwork()
    with pytest.raises(NoNamespace):
        await pods.make_pair(attachment(path))
    pods.close()


def test_a_namespace_is_entered_by_its_path_or_by_what_was_opened() -> None:
    name = f"tortie-test-spaces-{os.getpid()}"
    make_namespace(name)
    try:
        home = HOME.stat().st_ino
        opened = open_namespace(f"/run/netns/{name}")
        assert not is_hosts(opened)
        with entered(opened):
            inside = HOME.stat().st_ino
        with entered(f"/run/netns/{name}"):
            assert HOME.stat().st_ino == inside == os.fstat(opened).st_ino
        assert HOME.stat().st_ino == home != inside
        os.close(opened)
    finally:
        remove_namespace(name)
