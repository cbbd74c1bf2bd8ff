"""BFDConfiguration, a kind of Calico's commercial edition: its fields, what can be wrong with them, its key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.datastore.resources.documents import InvalidDocument, read
from agent.datastore.resources.resource_types import BFDConfiguration, encode
from agent.datastore.storage_layout import key_of

WHOLE = {
    "nodeSelector": 'rack == "r1"',
    "interfaces": [
        {
            "matchPattern": "eth*",
            "minimumRecvInterval": "10ms",
            "minimumSendInterval": "100ms",
            "idleSendInterval": "1m0s",
            "multiplier": 5,
        },
        {"matchPattern": "ens1"},
    ],
}


def text(spec: dict[str, Any]) -> str:
    head = {"apiVersion": "projectcalico.org/v3", "kind": "BFDConfiguration", "metadata": {"name": "b"}}
    return json.dumps({**head, "spec": spec})


def test_every_field_of_calicos_is_read_and_stored_as_it_was_written_and_so_is_none() -> None:
    for spec in (WHOLE, {}):
        (found,) = read(text(spec), "f.yaml")
        assert isinstance(found.resource, BFDConfiguration)
        assert json.loads(encode(found.resource))["spec"] == spec
        assert key_of(found.resource) == "/calico/resources/v3/projectcalico.org/bfdconfigurations/b"


FAULTS = [
    ({"nodeSelector": "rack ="}, "spec.nodeSelector: unexpected '=' at character 6"),
    (
        {"interfaces": [{"matchPattern": "eth*"}, {"matchPattern": "e*h0"}]},
        "spec.interfaces[1].matchPattern: 'e*h0' must be an interface's name of up to 15 letters, digits, "
        "'.', '-' and '_', its beginning with '*' behind it, or '*'",
    ),
    (
        {"interfaces": [{"minimumRecvInterval": "1500us"}]},
        "spec.interfaces[0].minimumRecvInterval: '1500us' must be whole milliseconds, one at least",
    ),
    (
        {"interfaces": [{"minimumSendInterval": "0s"}]},
        "spec.interfaces[0].minimumSendInterval: '0s' must be whole milliseconds, one at least",
    ),
    (
        {"interfaces": [{"idleSendInterval": "soon"}]},
        "spec.interfaces[0].idleSendInterval: 'soon' is not a duration, such as 90s or 2m",
    ),
    ({"interfaces": [{"multiplier": 256}]}, "spec.interfaces[0].multiplier: expected int <= 255"),
]


@pytest.mark.parametrize(("spec", "sentence"), FAULTS, ids=[one[1].split(":")[0] for one in FAULTS])
def test_what_is_wrong_is_one_sentence_with_its_field(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read(text(spec), "f.yaml")
    assert caught.value.sentences == [f"f.yaml: line 1: BFDConfiguration b: {sentence}"]
