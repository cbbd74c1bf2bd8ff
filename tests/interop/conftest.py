"""What every test beside another speaker starts from: two namespaces, ours and theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.world import Far, two_namespaces


@pytest.fixture
def far() -> Iterator[Far]:
    """Theirs, with a cable to ours; both vanish with the test."""
    with two_namespaces() as namespace:
        yield namespace
