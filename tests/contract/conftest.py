"""The fixtures that more than one contract needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.kernels import FakeWorld, RealWorld, World
from tests.fixtures.namespace import fresh_namespace


@pytest.fixture(params=["fake", "fake that moves routes", "real", "real with nexthop objects"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param.startswith("fake"):
        fake = FakeWorld()
        fake.kernel.moves_routes = "moves" in request.param
        yield fake
        return
    with fresh_namespace():
        real = RealWorld(nexthop_objects="nexthop" in request.param)
        yield real
        real.kernel.close()
