"""A wrong file is reported with file, document, line and field: golden sentences of whole files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.datastore.resources.documents import InvalidDocument, read
from agent.datastore.resources.yaml_lines import MOST_LEVELS, MOST_VALUES, NotReadable, parse_documents

POOL = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: p
spec:
  cidr: 10.0.0.0/16
"""
GOLDEN: list[tuple[str, str, list[str]]] = [
    (
        "a field that does not exist",
        POOL + "  blocksize: 26\n",
        ["f: line 7: IPPool p: spec.blocksize: unknown field; did you mean blockSize?"],
    ),
    (
        "the second document",
        f"# two pools\n{POOL}---\n{POOL.replace('name: p', 'name: q')}  natOutgoing: maybe\n",
        ["f: document 2, line 15: IPPool q: spec.natOutgoing: expected bool, got str"],
    ),
    (
        "an item of a list",
        "kind: List\nitems:\n- kind: Node\n  metadata: {name: a}\n- kind: Node\n  metadata:\n    name: b\n"
        "  spec:\n    bgp:\n      ipv4Address: 10.0.0.1.1/24\n",
        [
            "f: item 2, line 10: Node b: spec.bgp.ipv4Address: "
            "'10.0.0.1.1/24' is not an IPv4 address with a length"
        ],
    ),
    (
        "an item of a list in JSON with tabs",
        '{"kind": "IPPoolList",\n\t"items": [\n\t\t{"kind": "IPPool", "metadata": {"name": "p"},\n\t\t"spec": {\n'
        '\t\t\t"cidr": "10.0.0.1/16"}}]}',
        ["f: line 5: IPPool p: spec.cidr: 10.0.0.1/16 has host bits set; the network is 10.0.0.0/16"],
    ),
    (
        "a field that is missing is reported at what should hold it",
        "kind: IPPool\nmetadata: {name: p}\nspec:\n  natOutgoing: true\n",
        ["f: line 3: IPPool p: spec: object missing required field cidr"],
    ),
    (
        "no spec at all",
        "---\nkind: IPPool\nmetadata: {name: p}\n",
        ["f: line 2: IPPool p: object missing required field spec"],
    ),
    (
        "a field that is given twice",
        POOL + "  cidr: 10.1.0.0/16\n",
        ["f: line 7: spec.cidr: is given twice"],
    ),
    (
        "all faults of all documents at once",
        f"{POOL}  x: 1\n  ipipmode: Always\n---\nkind: BGPFilter\nmetadata: {{name: f}}\nspec:\n  exportV4:\n"
        "  - action: Accept\n  - action: accept\n  - action: Reject\n    cidr: 10.0.0.0/8\n",
        [
            "f: document 1, line 7: IPPool p: spec.x: unknown field",
            "f: document 1, line 8: IPPool p: spec.ipipmode: unknown field; did you mean ipipMode?",
            "f: document 2, line 15: BGPFilter f: spec.exportV4[1].action: 'accept' is none of Accept, Reject",
            "f: document 2, line 16: BGPFilter f: spec.exportV4[2].matchOperator: goes with cidr; set both or neither",
        ],
    ),
    (
        "a label that YAML takes for a number",
        "kind: Node\nmetadata:\n  name: n\n  labels:\n    rack: 1\n    'no key': x\n    zone: a b\n",
        [
            'f: line 5: Node n: metadata.labels.rack: must be a text; write it in quotes, such as "1"',
            "f: line 6: Node n: metadata.labels.no key: a key is 1 to 63 letters, digits, '-', '_' and '.', "
            "after a DNS name and '/' if any",
            "f: line 7: Node n: metadata.labels.zone: 'a b' must be up to 63 letters, digits, '-', '_' and '.'",
        ],
    ),
    (
        "a kind that is not known",
        "apiVersion: projectcalico.org/v3\nkind: ippool\n",
        [
            "f: line 2: kind: 'ippool' is not a kind this program knows (IPPool, Node, BGPConfiguration, BGPPeer, "
            "BGPFilter, BFDConfiguration, IPReservation, IPAMConfiguration, WorkloadEndpoint, BlockAffinity); "
            "did you mean IPPool?"
        ],
    ),
    (
        "rules of allocation that contradict each other",
        "kind: IPAMConfiguration\nmetadata: {name: default}\nspec:\n  maxBlocksPerHost: 4\n",
        [
            "f: line 4: IPAMConfiguration default: spec.maxBlocksPerHost: needs strictAffinity: "
            "else nodes at the limit would borrow"
        ],
    ),
    (
        "rules of allocation under another name, with labels",
        "kind: IPAMConfiguration\nmetadata:\n  name: mine\n  labels: {a: b}\nspec: {ipCooldownSeconds: 1201}\n",
        [
            "f: line 3: IPAMConfiguration mine: metadata.name: 'mine' is not default; "
            "there is one for the whole cluster",
            "f: line 5: IPAMConfiguration mine: spec.ipCooldownSeconds: 1201 is outside 0 to 1200",
            "f: line 4: IPAMConfiguration mine: metadata.labels: Calico keeps none for the rules of allocation",
        ],
    ),
    (
        "a reservation",
        "kind: IPReservation\nmetadata: {name: r}\nspec:\n  reservedCIDRs:\n  - 10.0.0.1\n  - 10.0.0.1/33\n",
        [
            "f: line 6: IPReservation r: spec.reservedCIDRs[1]: '10.0.0.1/33' is neither an address nor a network, "
            "such as 10.0.0.1 or 10.0.1.0/24"
        ],
    ),
    (
        "not YAML",
        "a: [1\nb: 2\n",
        ["f: line 2, column 2: not YAML or JSON: did not find expected ',' or ']'"],
    ),
    ("a tag", "!!python/name:os.system x", ["f: line 1, column 1: not YAML or JSON: could not determine a"]),
    ("a control character", "kind: \x00", ["f: not YAML or JSON: unacceptable character #x0000: control"]),
    ("a list as a key", "? [a]\n: 1\n", ["f: line 1, column 3: a key must be a word"]),
    ("an anchor inside itself", "a: &a [*a]\n", ["f: line 1, column 4: holds itself"]),
    ("too many levels", "[" * 50_000, ["f: line 1, column 101: nested in more than 100 levels"]),
]


@pytest.mark.parametrize(
    ("text", "sentences"), [case[1:] for case in GOLDEN], ids=[case[0] for case in GOLDEN]
)
def test_a_wrong_file_is_reported_with_document_line_and_field(text: str, sentences: list[str]) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read(text, "f")
    found = caught.value.sentences
    assert len(found) == len(sentences)
    for sentence, expected in zip(found, sentences, strict=True):
        assert sentence.startswith(expected) if "not YAML" in expected else sentence == expected


def test_aliases_of_aliases_are_bounded() -> None:
    folds = "".join(f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 32)}]\n" for level in range(1, 9))
    with pytest.raises(NotReadable, match=f"more than {MOST_VALUES} values; split it"):
        list(parse_documents(f"a0: &a0 [x]\n{folds}"))


def test_what_yaml_would_take_for_something_else_stays_text() -> None:
    (found,) = parse_documents("c: 65000:10\nt: 2026-01-02T03:04:05Z\nd: 2026-01-02\nn: 7\nb: true\n1: x\n")
    assert found.value == {
        "c": "65000:10",
        "t": "2026-01-02T03:04:05Z",
        "d": "2026-01-02",
        "n": 7,
        "b": True,
        "1": "x",
    }


def test_a_merged_mapping_yields_to_the_field_beside_it_and_is_no_repetition() -> None:
    base, other = parse_documents("base: &b {x: 1, y: 2}\nz:\n  x: 5\n  <<: *b\n---\n- a\n")
    assert base.value["z"] == {"x": 5, "y": 2}
    assert (base.repeated, base.line("z.x"), base.line("z.y"), base.line("z.nothing[3].at")) == ((), 3, 1, 2)
    assert other.line("[0]") == 6


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc \"'\\:#-[]{},äß", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcd", min_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from([None, 2, "\t"]))
def test_json_of_any_shape_is_read_as_json(value: object, indent: int | str | None) -> None:
    document = {"value": value}
    (found,) = parse_documents(json.dumps(document, indent=indent))
    assert found.value == document
    assert MOST_LEVELS > 12
