"""The fake kernel that the dataplane's tests start from."""

from __future__ import annotations

import pytest

from tests.fakes.kernel import FakeKernel


@pytest.fixture
def kernel() -> FakeKernel:
    fake = FakeKernel()
    fake.add_link("eth0", "172.26.0.1/24")
    fake.add_link("cali1")
    return fake
