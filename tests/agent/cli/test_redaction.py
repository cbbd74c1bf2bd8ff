"""What is taken out of a text: known secrets in every form, and what looks like one."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.redaction import GONE, SHORTEST, Redactor

SECRET = "s3cr3t-Xy9"
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=SHORTEST, max_size=40)


@pytest.mark.parametrize(
    "text",
    [
        f"password = {SECRET}",
        f'password = "{SECRET}"',
        f"etcd.password: '{SECRET}'",
        f'{{"bgpPassword": "{SECRET}", "as": 1}}',
        f"client_secret={SECRET}; next=1",
        f"X-Auth-Token: {SECRET}",
        f"https://root:{SECRET}@10.0.0.1:2379/",
        f"Authorization: Bearer {SECRET}",
        f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}\n-----END EC PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n",
        f'level=info event=x token="{SECRET} and more"',
        f"    client-key-data: {SECRET}",
        f"ESTAB 0 0 10.0.0.1:179 10.0.0.2:41 md5keys:10.0.0.2/32={SECRET},10.0.0.3/32={SECRET} cubic",
        f"/usr/bin/etcdctl --password {SECRET} get",
        f"PGPASSWORD={SECRET} psql",
    ],
)
def test_a_secret_is_removed_however_it_is_written(text: str) -> None:
    assert SECRET not in Redactor()(text)
    assert GONE in Redactor()(text)


@pytest.mark.parametrize(
    "text",
    [
        'password_file = "/etc/tortie/etcd.password"',
        "10.0.0.0/26 via 172.26.0.2 dev eth0 proto bird onlink",
        "https://10.0.0.1:2379/health",
        "cni.added pod=web address=192.168.0.1/32",
        "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor()(text) == text


@given(PRINTABLE, st.binary(max_size=5), st.binary(max_size=5))
def test_a_known_value_is_removed_in_every_form_that_programs_print(
    value: str, before: bytes, after: bytes
) -> None:
    redactor = Redactor([f"{value}\n"])
    forms = (
        value,
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
        quote(value),
        quote(value, safe=""),
        quote_plus(value),
        value.encode().hex(),
        value.encode().hex(":").upper(),
    )
    assert [form for form in forms if form in redactor(f"a {form} b")] == []
    whole = base64.b64encode(before + value.encode() + after).decode()
    left = redactor(f"text {whole}")
    assert whole not in left
    if len(value) > SHORTEST:  # of fewer octets base64 has no four characters that are theirs alone
        assert GONE in left


def test_each_line_of_a_key_is_known() -> None:
    redactor = Redactor(
        ["-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIABC\nx/yz0123\n-----END EC PRIVATE KEY-----\n"]
    )
    assert redactor("a x/yz0123 b MHcCAQEEIABC") == f"a {GONE} b {GONE}"


def test_a_value_of_few_characters_leaves_other_words_alone() -> None:
    assert Redactor(["to", ""])("route to 10.0.0.1") == "route to 10.0.0.1"


@pytest.mark.parametrize("part", ["a-b.c", "a", "--a", "token", "://", "@", '"'])
def test_a_very_long_word_costs_no_more_than_a_long_text(part: str) -> None:
    redactor, word = Redactor(), part * 200_000
    assert redactor(f"{word} password={SECRET}").endswith(f" password={GONE}")
