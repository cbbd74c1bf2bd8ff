"""What docs/resources.md says is what the command line knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.cli.kind_tables import ALIASES, CELLS, FORMS
from agent.datastore.resources.resource_types import KINDS, READ_ONLY
from tests import ROOT
from tests.scenes.cli.cli_examples import commands, invocations, refused
from tests.scenes.cli.cli_runs import run

PAGE = (ROOT / "docs" / "resources.md").read_text()


def test_every_kind_has_a_name_for_people_and_a_table() -> None:
    assert KINDS.keys() == ALIASES.keys() == CELLS.keys()


def test_kinds_and_their_names_are_those_of_the_program() -> None:
    rows = re.findall(r"^\| ([A-Z]\w+) \| ([a-z ]+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert {kind: tuple(names.split()) for kind, names, _ in rows} == ALIASES
    assert {kind for kind, _, writer in rows if "you" not in writer} == set(READ_ONLY)


def test_verbs_and_forms_are_those_of_the_program() -> None:
    known = {command for command, _ in commands()}
    verbs = {words.split()[0] for words in re.findall(r"^\| `([a-z][^`]*)` \|", PAGE, re.MULTILINE)}
    assert verbs == {"create", "apply", "replace", "patch", "label", "delete", "validate", "get"} <= known
    assert all(f"`{form}`" in PAGE or f"`-o {form}`" in PAGE for form in FORMS)


@pytest.mark.parametrize("line", re.findall(r"^    (tortie [a-z].+)$", PAGE, re.MULTILINE))
def test_its_commands_are_ones_that_the_parser_takes(line: str) -> None:
    found = invocations(line)
    assert [refused(words) for words in found] == [""] * (line.count(" | ") + 1)


def test_its_sentence_is_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence,) = re.findall(r"^    (tortie: .+)$", PAGE, re.MULTILINE)
    pool = (
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: {}\nspec:\n  cidr: 10.{}.0.0/16\n"
    )
    monkeypatch.chdir(tmp_path)
    Path("pools.yaml").write_text(
        f"{pool.format('first', 1)}---\n{pool.format('second', 2)}  blocksize: 26\n"
    )
    assert run(["validate", "-f", "pools.yaml"]) == (1, "", f"{sentence}\n")
