"""Until when a certificate is valid, and that no text breaks the reader."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.etcd.certificate import valid_until


def tlv(tag: int, *contents: bytes) -> bytes:
    data = b"".join(contents)
    if len(data) < 0x80:
        return bytes((tag, len(data))) + data
    size = len(data).to_bytes(2, "big")
    return bytes((tag, 0x82)) + size + data


def pem(der: bytes) -> str:
    return f"noise\n-----BEGIN CERTIFICATE-----\n{b64encode(der).decode()}\n-----END CERTIFICATE-----\n"


def certificate(tag: int, moment: bytes, *, versioned: bool = True) -> bytes:
    version = (tlv(0xA0, tlv(2, b"\x02")),) if versioned else ()
    validity = tlv(0x30, tlv(0x17, b"200101000000Z"), tlv(tag, moment))
    fields = (*version, tlv(2, b"\x05"), tlv(0x30), tlv(0x30, b"x" * 200), validity)
    return tlv(0x30, tlv(0x30, *fields))


@pytest.mark.parametrize(
    ("tag", "moment", "year"),
    [
        (0x17, b"301231235959Z", 2030),
        (0x17, b"491231235959Z", 2049),
        (0x17, b"501231235959Z", 1950),
        (0x18, b"20501231235959Z", 2050),
    ],
)
@pytest.mark.parametrize("versioned", [True, False])
def test_both_forms_of_time_are_read(tag: int, moment: bytes, year: int, versioned: bool) -> None:
    text = pem(certificate(tag, moment, versioned=versioned))
    assert valid_until(text) == datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_what_is_no_certificate_has_no_date() -> None:
    for text in ("", "x", pem(b""), pem(b"\x30\x84"), pem(certificate(0x05, b"x"))):
        assert valid_until(text) is None


@given(st.binary(max_size=60), st.integers(0, 250))
def test_no_damage_raises(noise: bytes, at: int) -> None:
    whole = certificate(0x17, b"301231235959Z")
    valid_until(pem(whole[:at] + noise + whole[at + len(noise) :]))
    valid_until(pem(whole[:at]))
