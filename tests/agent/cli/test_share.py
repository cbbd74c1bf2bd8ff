"""The manual page and the completions: as the parser is, and understood by those who read them."""

from __future__ import annotations

import importlib.util
import subprocess
from types import ModuleType

import pytest

from agent.service import layout
from tests import ROOT

SHARE = ROOT / "share"


@pytest.fixture(scope="module")
def share() -> ModuleType:
    spec = importlib.util.spec_from_file_location("share", ROOT / "packaging/share.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(*words: str) -> str:
    """What a program printed, complaints included."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def test_the_files_are_as_the_command_line_is(share: ModuleType) -> None:
    there = {str(path.relative_to(SHARE)): path.read_text() for path in SHARE.rglob("*") if path.is_file()}
    assert share.files() == there, "run: make share"


def test_each_file_is_found_where_its_reader_looks(share: ModuleType) -> None:
    links = {str(link) for link in layout.COMMANDS}
    assert {f"usr/local/share/{path}" for path in share.files()} <= links


def test_the_manual_page_is_typeset_without_a_warning() -> None:
    page = str(SHARE / "man/man1/tortie.1")
    assert said("groff", "-man", "-ww", "-z", page) == ""
    assert "EXIT STATUS" in said("groff", "-man", "-Tascii", "-P-c", "-P-b", "-P-u", page)


@pytest.mark.parametrize(
    ("typed", "offered"), [(("no",), "node"), (("node", "sta"), "status"), (("ipam", "sh"), "show")]
)
def test_bash_and_fish_complete_a_command(typed: tuple[str, ...], offered: str) -> None:
    bash = (
        f"source {SHARE}/bash-completion/completions/tortie; COMP_WORDS=(tortie {' '.join(typed)}); "
        f"COMP_CWORD={len(typed)}; _shtab_tortie; echo ${{COMPREPLY[@]}}"
    )
    assert offered in said("bash", "-c", bash).split()
    fish = f"source {SHARE}/fish/vendor_completions.d/tortie.fish; complete -C 'tortie {' '.join(typed)}'"
    assert offered in said("fish", "--no-config", "-c", fish).split()


def test_zsh_loads_its_completion() -> None:
    load = f"autoload -Uz compinit; compinit -u -D; fpath=({SHARE}/zsh/site-functions $fpath); "
    load += "autoload -Uz _tortie && autoload +X _tortie && whence -w _tortie"
    assert said("zsh", "-f", "-c", load) == "_tortie: function\n"
