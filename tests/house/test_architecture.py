"""What ARCHITECTURE.md says of the code is so: every place that it names is there; journeys and recipes name places."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import ROOT
from tests.house.architecture import PATH, anchors, parts, place_exists, section

TEXT = (ROOT / "ARCHITECTURE.md").read_text()
FEWEST_PLACES = 2
"""Of a journey or a recipe: it says where it goes."""


def test_every_place_that_it_names_exists() -> None:
    assert [f"{path}:{name}" for path, name in anchors(TEXT) if not place_exists(ROOT, path, name)] == []
    assert [path for path in PATH.findall(TEXT) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("title", "fewest"), [("## Journeys", 3), ("## Recipes", 4)])
def test_journeys_and_recipes_lead_through_the_code(title: str, fewest: int) -> None:
    found = parts(section(TEXT, title), 3)
    assert len(found) >= fewest
    assert [part for part, text in found.items() if len(anchors(text)) < FEWEST_PLACES] == []


MADE_UP = """# A house

## Journeys

### Up

From `agent/a.py:start` to `agent/a.py:Engine.run`, by way of `agent/a.py:LIMIT`.

### Down

By `agent/a.py:Engine.stop()`.

## Words
"""


def test_a_place_that_is_not_there_is_seen(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    source = "LIMIT: int = 1\ndef start(): ...\nclass Engine:\n    speed = 1\n    async def run(self): ...\n"
    (tmp_path / "agent/a.py").write_text(source)
    assert [name for path, name in anchors(MADE_UP) if not place_exists(tmp_path, path, name)] == [
        "Engine.stop"
    ]
    assert place_exists(tmp_path, "agent/a.py", "Engine.speed")
    for path, name in (("agent/b.py", "start"), ("agent/a.py", "run"), ("agent/a.py", "start.run")):
        assert not place_exists(tmp_path, path, name)


def test_a_journey_that_names_no_places_is_seen() -> None:
    found = parts(section(MADE_UP, "## Journeys"), 3)
    assert {part: len(anchors(text)) for part, text in found.items()} == {"Up": 3, "Down": 1}
    assert section(MADE_UP, "## Recipes") == ""
