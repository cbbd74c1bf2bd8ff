"""`tortie get` and `tortie version` as a person runs them, against a real etcd: what is asked for, in which form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures.etcd import start_etcd
from tests.scenes.cli.cli_runs import run

RESOURCES = """\
kind: IPPool
metadata: {name: first, labels: {rack: r1}}
spec: {cidr: 10.0.0.0/16}
---
kind: IPPool
metadata: {name: second, labels: {rack: r2, gpu: "yes"}}
spec: {cidr: 10.1.0.0/16}
---
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 172.26.0.1, asNumber: 65001}
"""
Tortie = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tortie() -> Iterator[Tortie]:
    with start_etcd() as running:

        def command(*words: str, text: str = "") -> tuple[int, str, str]:
            return run([*words, "--etcd-endpoints", running.endpoint], text)

        assert command("apply", "-f", "-", text=RESOURCES)[0] == 0
        yield command


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (
            ("ippools,bgppeers",),
            "NAME            CIDR          SELECTOR\nippool/first    10.0.0.0/16   all()\n"
            "ippool/second   10.1.0.0/16   all()\n\n"
            "NAME          PEERIP       NODE       ASN\nbgppeer/tor   172.26.0.1   (global)   65001\n",
        ),
        (("all", "-o", "name"), "ippool/first\nippool/second\nbgppeer/tor\n"),
        (("ippool/second", "bgppeer/tor", "-o", "name"), "ippool/second\nbgppeer/tor\n"),
        (("ippools", "-l", 'rack == "r2"', "-o", "name"), "ippool/second\n"),
        (("ippools", "-l", "rack=r2,gpu", "-o", "name"), "ippool/second\n"),
        (("ippools", "-l", "rack!=r2,!gpu", "-o", "name"), "ippool/first\n"),
        (
            ("ippools", "--show-labels", "-l", "has(gpu)"),
            "NAME     CIDR          SELECTOR   LABELS\nsecond   10.1.0.0/16   all()      gpu=yes,rack=r2\n",
        ),
        (
            ("ippools", "-o", "custom-columns=N:.metadata.name,RACK:.metadata.labels.rack"),
            "N        RACK\nfirst    r1\nsecond   r2\n",
        ),
        (("ippools", "-o", "jsonpath={.items[*].spec.cidr}"), "10.0.0.0/16 10.1.0.0/16\n"),
        (("ippool", "first", "-o", "jsonpath={.spec.cidr}"), "10.0.0.0/16\n"),
        (("nodes",), "NAME\n"),
    ],
    ids=" ".join,
)
def test_what_is_asked_for_is_shown_in_the_form_asked_for(
    tortie: Tortie, words: tuple[str, ...], out: str
) -> None:
    assert tortie("get", *words) == (0, out, "")


def test_several_kinds_are_one_list_that_apply_takes(tortie: Tortie) -> None:
    _, text, _ = tortie("get", "all", "-o", "json")
    assert [item["metadata"]["name"] for item in json.loads(text)["items"]] == ["first", "second", "tor"]
    assert tortie("apply", "-f", "-", text=text)[1].count("unchanged") == 3


def test_what_a_file_names_is_shown(tortie: Tortie, tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(RESOURCES.partition("---\n")[0])
    assert tortie("get", "-f", str(file), "-o", "name") == (0, "ippool/first\n", "")


def test_a_name_that_is_missing_hides_no_other(tortie: Tortie) -> None:
    code, out, err = tortie("get", "ippool", "first", "nosuch", "second")
    assert (code, err) == (1, "tortie: IPPool nosuch does not exist\n")
    assert out.split()[3::3] == ["first", "second"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ippol",), "kind 'ippol' is not known; did you mean ippool?"),
        ((), "name either KIND or -f FILE"),
        (("ippools,bgppeers", "first"), "a NAME is of one kind"),
        (("ippools", "-l", "rack ~ 1"), "-l 'rack ~ 1': unexpected '~' at character 6"),
        (("-f", "https://example.org/pool.yaml"), "a URL is not fetched"),
        (("ippools", "-o", "jsonpath={.a[?]}"), "path '.a[?]': '[?]' is not understood"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_one_sentence(tortie: Tortie, words: tuple[str, ...], sentence: str) -> None:
    code, out, err = tortie("get", *words)
    assert (code, out) == (1, "")
    assert err.startswith("tortie: ")
    assert sentence in err


def test_a_form_that_is_not_known_is_refused_with_those_that_are(tortie: Tortie) -> None:
    code, _, err = tortie("get", "ippools", "-o", "jsonpath")
    assert code == 2
    assert (
        "no form 'jsonpath'; known are table, wide, yaml, json, name, custom-columns=..., jsonpath=..." in err
    )


def test_versions_are_those_of_program_agent_and_etcd_or_why_not(tortie: Tortie) -> None:
    code, out, _ = tortie("version", "-o", "json")
    found = json.loads(out)
    assert (code, set(found)) in ((0, {"client", "etcd", "agentError"}), (0, {"client", "etcd", "agent"}))
    assert found["etcd"].startswith("3.")
    assert (
        run(["version", "--etcd-endpoints", "http://127.0.0.1:1"])[1]
        .splitlines()[-1]
        .startswith("etcd    no answer from etcd at http://127.0.0.1:1: ")
    )
    assert run(["--version"])[1] == f"tortie {found['client']}\n"
