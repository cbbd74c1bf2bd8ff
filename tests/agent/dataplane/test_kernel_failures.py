"""Whatever a call of the kernel raises, once, the reconciler goes on and the kernel comes to hold what is desired."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agent import parts as parts_module
from agent.netlink.kernel_errors import Incomplete, KernelError, Unsupported
from agent.netlink.objects import Sysctl
from agent.parts import Parts
from agent.trouble import TroubleKind
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.desired_states import EVERYTHING, POD
from tests.scenes.dataplane.reconcilers import Bench

NAME = "net/ipv4/conf/cali1/proxy_arp"
WANTED = replace(EVERYTHING, sysctls={NAME: Sysctl(NAME, "1")})
CALLS = (
    *("links", "tunnels", "routes", "neighbours", "fdb", "masquerade", "forward_chains", "sysctls"),
    *("workload_filter", "put_workload_filter"),
    *("put_tunnel", "put_routes", "put_entries", "put_masquerade", "put_sysctls", "changes"),
)
ERRORS = (
    KernelError("opening a netlink socket of protocol 0: Too many open files"),
    Incomplete("a dump of type 24 was interrupted 8 times by changes"),
    OSError(errno.ENOBUFS, "No buffer space available"),
    ValueError("unpack requires a buffer of 4 bytes"),
    KeyError(7),
)


class Faulty(FakeKernel):
    """Its next call of a name raises what stands there."""

    def __init__(self, **failing: Exception) -> None:
        super().__init__()
        self.failing = failing
        self.add_link("eth0", "172.26.0.1/20")
        self.add_link("cali1")
        self.sysctl_table[NAME] = "0"

    def __getattribute__(self, name: str) -> Any:
        if name in CALLS or name == "delete_connections":
            error = self.failing.pop(name, None)
            if error is not None:
                return _raising(error, is_awaited=name != "changes")
        return super().__getattribute__(name)


def _raising(error: Exception, *, is_awaited: bool) -> Callable[..., Any]:
    def at_once(*_: object, **__: object) -> None:
        raise error

    async def awaited(*_: object, **__: object) -> None:
        raise error

    return awaited if is_awaited else at_once


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "FIRST_WAIT_SECONDS", 0.001)


@asynccontextmanager
async def kept(bench: Bench) -> AsyncIterator[Parts]:
    """The reconciler as the agent runs it."""
    parts = Parts(bench.log)
    work: Awaitable[None] = parts.keep("kernel", bench.reconciler.run)
    task = asyncio.ensure_future(work)
    try:
        yield parts
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def holds_all(kernel: Faulty) -> bool:
    """Whether the kernel is as desired."""
    return WANTED.routes.keys() <= kernel.route_table.keys() and kernel.sysctl_table[NAME] == "1"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_fails_once_is_made_again(call: str, error: Exception) -> None:
    kernel = Faulty(**{call: error})
    async with kept(bench := Bench(kernel, WANTED)) as parts:
        await bench.until(lambda: not kernel.failing and holds_all(kernel))
        await bench.quiet()
    assert list(bench.reconciler.troubles()) == []
    is_kernels = isinstance(error, KernelError) and call != "changes"
    assert not is_kernels or not parts.failures


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_reading_of_what_somebody_changed_that_fails_becomes_a_reading_of_everything(
    error: Exception,
) -> None:
    kernel = Faulty()
    async with kept(bench := Bench(kernel, WANTED)) as parts:
        await bench.until(lambda: holds_all(kernel))
        await bench.quiet()
        kernel.failing["sysctls"] = error
        kernel.foreign_sysctl(NAME, "0")
        await bench.until(lambda: not kernel.failing and kernel.sysctl_table[NAME] == "1")
    assert not isinstance(error, KernelError) or not parts.failures


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_connections_that_cannot_be_deleted_hold_up_nothing(error: Exception) -> None:
    kernel = Faulty()
    async with kept(bench := Bench(kernel, WANTED)):
        await bench.until(lambda: holds_all(kernel))
        kernel.failing["delete_connections"] = error
        bench.desired = replace(bench.desired, dataplane=_without_pod())
        bench.reconciler.trigger()
        await bench.until(lambda: POD.key not in kernel.route_table)
        bench.desired = replace(bench.desired, dataplane=WANTED)
        bench.reconciler.trigger()
        await bench.until(lambda: POD.key in kernel.route_table)
        assert not kernel.failing  # they go before the address is used again


def _without_pod() -> Any:
    return replace(WANTED, routes={key: route for key, route in WANTED.routes.items() if key != POD.key})


async def test_while_passes_fail_it_is_a_trouble_and_after_a_good_one_it_is_none() -> None:
    kernel = Faulty()
    async with kept(bench := Bench(kernel, WANTED)):
        await bench.until(lambda: holds_all(kernel))
        seen: list[str] = []

        async def fails(links: object) -> Any:
            seen.append("asked")
            raise Unsupported("no")

        well = bench.reconciler._compute_desired
        bench.reconciler._compute_desired = fails
        bench.reconciler.trigger()
        await bench.until(lambda: bool(list(bench.reconciler.troubles())))
        (trouble,) = bench.reconciler.troubles()
        assert (trouble.kind, trouble.evidence) == (
            TroubleKind.KERNEL,
            "a pass over the kernel did not finish: no",
        )
        bench.reconciler._compute_desired = well
        await bench.until(lambda: not list(bench.reconciler.troubles()))
