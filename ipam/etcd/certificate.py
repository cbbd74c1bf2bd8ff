"""Until when an X.509 certificate is valid, read from its PEM text.

Promises: pure; any text gives a date or None, never an exception. Only the walk to `validity` of RFC 5280 4.1 is known;
nothing is verified. Does not know: files, TLS.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from datetime import UTC, datetime

PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----")
SEQUENCE, VERSION, UTC_TIME, GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
"""Tags of X.690."""
FIELDS_BEFORE_VALIDITY = 3
"""serialNumber, signature, issuer."""


def valid_until(text: str) -> datetime | None:
    """notAfter of the first certificate in `text`; None when there is none that can be read."""
    found = PEM.search(text)
    if found is None:
        return None
    try:
        return _not_after(b64decode(found[1]))
    except (ValueError, IndexError, binascii.Error):
        return None


def _not_after(der: bytes) -> datetime:
    """The end of `validity` in a certificate (RFC 5280 4.1). Raises ValueError, IndexError."""
    _, certificate, _ = _element(der)
    _, fields, _ = _element(certificate)
    tag, _, rest = _element(fields)
    if tag == VERSION:
        fields = rest
    for _ in range(FIELDS_BEFORE_VALIDITY):
        _, _, fields = _element(fields)
    tag, validity, _ = _element(fields)
    if tag != SEQUENCE:
        raise ValueError("no validity")
    _, _, rest = _element(validity)
    tag, moment, _ = _element(rest)
    form = {UTC_TIME: "%y%m%d%H%M%SZ", GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}[tag] if tag in (0x17, 0x18) else ""
    found = datetime.strptime(moment.decode("ascii"), form).replace(tzinfo=UTC)
    if tag == UTC_TIME and found.year >= 2050:  # RFC 5280 4.1.2.5.1: two digits mean 1950 to 2049
        found = found.replace(year=found.year - 100)
    return found


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Split off one DER element: its tag, its contents, and what follows it. Raises ValueError, IndexError."""
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if start + length > len(data):
        raise ValueError("cut short")
    return tag, data[start : start + length], data[start + length :]
