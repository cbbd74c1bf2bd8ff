"""One command's conversation with the agent or with the datastore; any fault is said in one sentence.

Promises: what a conversation needs is imported when it begins, so that `tortie --help` is quick, and gRPC only for one
with etcd. Does not know: what is asked.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from agent.cli.command import CommandFailed, reported

if TYPE_CHECKING:
    from agent.configuration.config import Config
    from agent.configuration.loading import Loaded
    from ipam.etcd.store import Store

MOST_PAGES = 100_000
"""The bound on the pages of one answer of the agent; a page has hundreds of rows."""

T = TypeVar("T")


def settings(arguments: argparse.Namespace) -> Loaded:
    """The settings this command runs with, and where each comes from. Raises CommandFailed."""
    from agent.configuration.config import ConfigError
    from agent.configuration.loading import loaded

    flags = {"etcd.endpoints": arguments.etcd_endpoints} if arguments.etcd_endpoints else {}
    with reported(ConfigError):
        return loaded(arguments.config, os.environ, flags)


def config(arguments: argparse.Namespace) -> Config:
    """The settings this command runs with. Raises CommandFailed."""
    return settings(arguments).config


def ask_agent(arguments: argparse.Namespace, question: str) -> Any:
    """The running agent's answer. Raises CommandFailed.

    With settings that are wrong now it is looked for where it is by default: it runs with earlier ones.
    """
    from agent import control
    from agent.configuration.config import Config

    try:
        socket = config(arguments).control_socket
    except CommandFailed:
        socket = Config().control_socket
    with reported(control.NotRunning):
        answer = control.ask(socket, question)
    if isinstance(answer, dict) and "error" in answer:
        raise CommandFailed(answer["error"])
    return answer


def ask_pages(
    arguments: argparse.Namespace, word: str, question: dict[str, Any], rows: str
) -> Iterator[list[dict[str, Any]]]:
    """The agent's answer page by page, at least one, which may be empty; `rows` is the key of a page's rows.

    Raises CommandFailed.
    """
    import json

    for _ in range(MOST_PAGES):
        answer = ask_agent(arguments, f"{word} {json.dumps(question)}")
        yield answer[rows]
        if not answer["last"]:
            return
        question = {**question, "after": answer["last"]}


def with_store(
    arguments: argparse.Namespace, work: Callable[[Store], Awaitable[T]], *, though_locked: bool = False
) -> T:
    """What `work` returns, run with a connected store, which writes while it is locked only if that is said.

    Raises CommandFailed.
    """
    import asyncio

    from agent.configuration.config import ConfigError
    from agent.datastore.datastore_lock import LockableStore
    from agent.datastore.etcd_settings import etcd_config
    from ipam.etcd.client import EtcdStore
    from ipam.failures import IpamError, StoreUnavailable

    etcd = config(arguments).etcd

    async def run() -> T:
        store = EtcdStore(etcd_config(etcd))
        try:
            return await work(store if though_locked else LockableStore(store))
        finally:
            await store.close()

    with (
        reported(IpamError, ConfigError),
        reported(StoreUnavailable, prefix=f"no answer from etcd at {', '.join(etcd.endpoints)}: "),
    ):
        return asyncio.run(run())


def etcd_version(arguments: argparse.Namespace) -> str:
    """Which etcd answers. Raises CommandFailed."""
    from ipam.etcd.client import EtcdStore

    async def work(store: Store) -> str:
        assert isinstance(
            store, EtcdStore
        )  # and none before it, since this asks though the datastore is locked
        return await store.version()

    return with_store(arguments, work, though_locked=True)
