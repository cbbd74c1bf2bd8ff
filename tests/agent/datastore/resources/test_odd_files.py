"""Files with something odd in any place: reported with its line, or taken, stored and read back as it was."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
import yaml

from agent.datastore import storage_layout
from agent.datastore.resources.documents import InvalidDocument, ParsedResource, read
from agent.datastore.resources.resource_types import kind_of
from agent.datastore.storage_layout import key_of
from ipam.etcd.store import Versioned
from tests.scenes.datastore.resources import EXAMPLES

FILES = 400
ODD = (
    *(
        None,
        True,
        0,
        -1,
        1 << 70,
        1.5,
        float("inf"),
        "",
        "x",
        "10.0.0.0/8",
        "fd00::/8",
        "all()",
        [],
        {},
        [None],
    ),
    *(
        {"": 1},
        {"a": {}},
        [[]],
        "é" * 10,
        "1.2.3.4",
        "node.",
        "65000:1",
        "9" * 100,
        "%/",
        "-1s",
        "1h",
        ":1",
        "[",
    ),
    *("[::]:x", "10.0.0.0/-1", "0/0", "host", "has(", "(" * 3000, "a" * 300, "a b", "2026-01-02", "~", "on"),
)
FIELDS = ("x", "kind", "spec", "name", "", "a.b", "cidr", "status", "items")


def odd(value: Any, chance: random.Random) -> Any:
    """The same with something odd in it, here and there."""
    if chance.random() < 0.04:
        return chance.choice(ODD)
    if isinstance(value, dict):
        found = {name: odd(inner, chance) for name, inner in value.items() if chance.random() > 0.01}
        return found | ({chance.choice(FIELDS): chance.choice(ODD)} if chance.random() < 0.02 else {})
    return [odd(inner, chance) for inner in value] if isinstance(value, list) else value


def taken_or_reported(text: str) -> tuple[list[ParsedResource], list[str]]:
    try:
        return read(text, "f"), []
    except InvalidDocument as error:
        return [], error.sentences


@pytest.mark.parametrize("seed", range(4))
def test_an_odd_file_is_reported_with_its_line_or_comes_back_as_it_was(seed: int) -> None:
    chance = random.Random(seed)
    taken = refused = 0
    for _ in range(FILES):
        document = odd(chance.choice(EXAMPLES).document(), chance)
        text = json.dumps(document) if chance.random() < 0.5 else yaml.safe_dump(document)
        found, sentences = taken_or_reported(text)
        refused += bool(sentences)
        assert document is None or all(sentence.startswith("f: line ") for sentence in sentences)
        for item in found:
            taken += 1
            value = Versioned(key_of(item.resource), storage_layout.stored_bytes(item.resource, None), 7)
            stored = storage_layout.read(kind_of(item.resource), value)
            assert stored is not None
            assert stored.resource.spec == item.resource.spec
            (again,) = read(msgspec.yaml.encode(storage_layout.to_document(stored.resource)).decode(), "g")
            assert again.resource == stored.resource
    assert taken > FILES / 8
    assert refused > FILES / 8
