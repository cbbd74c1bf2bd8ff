"""`tortie routes` shows the kernel as it is now, and the pages of one question are of one reading."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.dataplane.desired.route_producers import RouteClass
from agent.dataplane.explain.route_queries import RouteQueries
from agent.datastore.state_cache import StateCache
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Route, RouteKey
from ipam.model import NodeName
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane import desired_states
from tests.scenes.dataplane.desired_states import FOREIGN, routes
from tests.scenes.dataplane.reconcilers import Bench, running
from tests.scenes.dataplane.route_facts import facts

LEARNED = desired_states.LEARNED.with_(route_class=RouteClass.LEARNED)
ELSEWHERE = Route(
    RouteKey(IPv4Network("10.9.0.0/24")), gateway=IPv4Address("172.26.0.9"), device="eth0", protocol=4
)


@pytest.fixture
def kernel() -> FakeKernel:
    made = FakeKernel()
    made.add_link("eth0", "172.26.0.1/24")
    return made


def queries(bench: Bench, kernel: FakeKernel) -> RouteQueries:
    return RouteQueries(bench.reconciler, kernel, StateCache(NodeName("me")), facts, lambda _: "")


async def test_a_route_that_came_or_went_since_the_last_pass_is_shown_as_it_is(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, routes(LEARNED))) as bench:
        asked = queries(bench, kernel)
        assert [row["route"] for row in (await asked.table(""))["routes"]] == [str(LEARNED)]
        await bench.quiet()
        passes = bench.reconciler.passes
        kernel.route_table[ELSEWHERE.key] = ELSEWHERE  # and nobody has said so yet
        found = (await asked.table(""))["routes"]
        assert sorted(row["route"] for row in found) == sorted((str(LEARNED), str(ELSEWHERE)))
        kernel.route_table[LEARNED.key] = FOREIGN
        (row,) = (await asked.table(json.dumps({"near": str(LEARNED.key)})))["routes"]
        assert (row["agrees"], row["state"].partition(":")[0]) == (False, "conflict")
        assert bench.reconciler.passes == passes


async def test_the_next_page_is_of_the_same_reading(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, routes(LEARNED))) as bench:
        asked = queries(bench, kernel)
        kernel.route_table[ELSEWHERE.key] = ELSEWHERE
        first = await asked.table(json.dumps({"most": 1}))
        read = len(kernel.dumps)
        kernel.route_table.clear()
        second = await asked.table(json.dumps({"most": 1, "after": first["last"]}))
        assert [row["route"] for page in (first, second) for row in page["routes"]] == [
            str(ELSEWHERE),
            str(LEARNED),
        ]
        assert (second["last"], len(kernel.dumps)) == ("", read)
        (gone,) = (await asked.table(""))["routes"]
        assert gone["state"].startswith("missing")


async def test_a_kernel_that_cannot_be_read_is_one_sentence(kernel: FakeKernel) -> None:
    async with running(Bench(kernel, routes(LEARNED))) as bench:

        async def routes_refused() -> dict[RouteKey, Route]:
            raise KernelError("no memory")

        asked = queries(bench, kernel)
        kernel.routes = routes_refused  # type: ignore[method-assign, assignment]
        with pytest.raises(ValueError, match="the kernel cannot be read: no memory"):
            await asked.table("")
