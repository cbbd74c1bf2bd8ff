"""What every test process starts with: nothing of what was collected is looked through for garbage again and again."""

from __future__ import annotations

import gc

YOUNG_OBJECTS, COLLECTIONS_BETWEEN = 50_000, (20, 50)
"""As the agent's own (agent/service/start.py)."""


def pytest_collection_finish() -> None:
    """Five thousand tests and all modules are a million objects that live for ever."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *COLLECTIONS_BETWEEN)
