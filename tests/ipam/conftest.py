"""A fresh fake store, and a small cluster around it."""

from __future__ import annotations

import pytest

from tests.fakes.store import FakeStore
from tests.scenes.ipam.world import World


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def world(store: FakeStore) -> World:
    return World(store)
