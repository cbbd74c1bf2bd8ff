"""One command's conversation with the datastore: connect, do, close, and say any fault in one sentence."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from agent import control
from agent.cli.failure import CommandFailed
from agent.configuration.config import Config, ConfigError
from agent.configuration.loading import Loaded, loaded
from ipam.etcd.store import Store
from ipam.failures import IpamError, StoreUnavailable

Result = TypeVar("Result")


def settings(arguments: argparse.Namespace) -> Loaded:
    """The settings this command runs with, and where each comes from. Raises CommandFailed."""
    flags = {"etcd.endpoints": arguments.etcd_endpoints} if arguments.etcd_endpoints else {}
    try:
        return loaded(arguments.config, os.environ, flags)
    except ConfigError as error:
        raise CommandFailed(str(error)) from error


def config(arguments: argparse.Namespace) -> Config:
    """The settings this command runs with. Raises CommandFailed."""
    return settings(arguments).config


def asked(arguments: argparse.Namespace, question: str) -> Any:
    """The running agent's answer. Raises CommandFailed.

    With settings that are wrong now it is looked for where it is by default: it runs with earlier ones.
    """
    try:
        socket = config(arguments).control_socket
    except CommandFailed:
        socket = Config().control_socket
    try:
        answer = control.ask(socket, question)
    except control.NotRunning as error:
        raise CommandFailed(str(error)) from error
    if isinstance(answer, dict) and "error" in answer:
        raise CommandFailed(answer["error"])
    return answer


def with_store(arguments: argparse.Namespace, work: Callable[[Store], Awaitable[Result]]) -> Result:
    """Run `work` with a connected store. Raises CommandFailed."""
    from agent.datastore.etcd_settings import (
        etcd_config,
    )  # gRPC is slow to load, and most commands ask the agent
    from ipam.etcd.client import EtcdStore

    etcd = config(arguments).etcd

    async def run() -> Result:
        store = EtcdStore(etcd_config(etcd))
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except StoreUnavailable as error:
        raise CommandFailed(f"no answer from etcd at {', '.join(etcd.endpoints)}: {error}") from error
    except (IpamError, ConfigError) as error:
        raise CommandFailed(str(error)) from error
