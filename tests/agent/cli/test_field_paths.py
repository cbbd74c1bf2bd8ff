"""Fields of resources by kubectl's paths: what they lead to, and what is refused with a sentence."""

from __future__ import annotations

import pytest

from agent.cli.command import CommandFailed
from agent.cli.field_paths import (
    LONGEST_TEMPLATE,
    MOST_RANGES,
    cell,
    column_paths,
    filled,
    path_steps,
    values_at,
)

POOLS = {
    "items": [
        {"metadata": {"name": "a", "labels": {"x/y": "1"}}, "spec": {"cidr": "10.0.0.0/16", "blockSize": 26}},
        {"metadata": {"name": "b"}, "spec": {"cidr": "10.1.0.0/16", "natOutgoing": True}},
    ]
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".items[0].metadata.name", ["a"]),
        ("items[-1].metadata.name", ["b"]),
        ("$.items[*].spec.cidr", ["10.0.0.0/16", "10.1.0.0/16"]),
        ("@.items[0].metadata.labels['x/y']", ["1"]),
        (".items[0].metadata.labels.x/y", ["1"]),
        (".items[2].metadata.name", []),
        (".items.metadata", []),
        (".items[0].metadata.*", ["a", {"x/y": "1"}]),
        (".", [POOLS]),
        ("", [POOLS]),
    ],
)
def test_a_path_leads_to_all_that_it_names_and_nowhere_is_nothing(path: str, found: list[object]) -> None:
    assert values_at(POOLS, path_steps(path)) == found


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.items[*].metadata.name}", "a b"),
        (".items[0].spec.blockSize", "26"),
        ("{.items[1].spec.natOutgoing}", "true"),
        (
            '{range .items[*]}{.metadata.name}{"\\t"}{.spec.cidr}{"\\n"}{end}',
            "a\t10.0.0.0/16\nb\t10.1.0.0/16\n",
        ),
        ("names: {range .items[*]}<{.metadata.name}>{end}.", "names: <a><b>."),
        ("{.items[0].metadata.labels}", '{"x/y": "1"}'),
        ("{'}'}{.nothing}", "}"),
    ],
)
def test_a_template_is_filled_as_kubectl_fills_it(template: str, text: str) -> None:
    assert filled(template, POOLS) == text


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{.items[?(@.a==1)]}", "is not understood"),
        ("{.items[0:1]}", "is not understood"),
        ("{..name}", "is not understood"),
        ("{range .items[*]}{.a}", "{range} without {end}"),
        ("{.a}{end}", "{end} without {range}"),
        ("{.a} {", "a brace without its other one"),
        ("x" * (LONGEST_TEMPLATE + 1), "more than"),
        ("{range .a}" * (MOST_RANGES + 1) + "{end}" * (MOST_RANGES + 1), "inside each other"),
    ],
)
def test_what_is_not_understood_is_refused_with_a_sentence(template: str, sentence: str) -> None:
    with pytest.raises(CommandFailed, match=r"^(path|jsonpath)") as caught:
        filled(template, POOLS)
    assert sentence in str(caught.value)


def test_columns_are_heads_and_paths_and_a_missing_field_is_said() -> None:
    columns = column_paths("NAME:.metadata.name,SIZE:.spec.blockSize,ALL:.spec.*")
    assert [head for head, _ in columns] == ["NAME", "SIZE", "ALL"]
    first, second = POOLS["items"]
    assert [cell(first, path) for _, path in columns] == ["a", "26", "10.0.0.0/16,26"]
    assert [cell(second, path) for _, path in columns] == ["b", "<none>", "10.1.0.0/16,true"]
    for wrong in ("NAME", "NAME:", ":.a", "A:.a,"):
        with pytest.raises(CommandFailed, match="is not HEAD"):
            column_paths(wrong)
