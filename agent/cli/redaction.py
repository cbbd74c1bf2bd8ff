"""Takes secrets out of a text before it is given to somebody else; a core.

Strategy. Values that are known are removed in every form in which a program may print them; of those that are not,
what follows a name that sounds like a secret, TCP's MD5 keys as `ss` prints them, what stands between `//` and `@` in a
URL, and private keys.
Promises: names and line numbers stay. It errs on the side of removing. Does not know: where a text is from.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

GONE = "<removed>"
SHORTEST = 4
"""Characters of a value that is removed wherever it stands: a shorter one is half of all words."""
SOUNDS = re.compile(
    r"(?ix) (?: password | passwd | passphrase | pwd | psk | secret | token | credential | key-data | apikey )"
    r"(?! [_-]?file )"
)
"""In the name of something that is one; a path of a file is none."""
NAME = re.compile(r"""(?x) (?<! [\w.-] ) ([\w.-]++) ( ["']? \s* [:=] \s* | [ ]++ (?= [^\s-] ) )""")
"""A name and what stands between it and its value; a blank does only behind a flag, as in `--password x`."""
VALUE = re.compile(r"""(?x) "(?:[^"\\\n]|\\.)*+" | '[^'\n]*+' | [^\s,;}\]]++""")
KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
MD5_KEYS = re.compile(r"(md5keys:)\S+")
"""ss(8): `md5keys:10.0.0.2/32=x,…`, with what is no plain character as an escape."""
IN_URL = re.compile(r"(?<!\w)(\w+://)[^\s/@'\"]+@")
AUTHORIZATION = re.compile(r"(?i)(authorization:\s*)\S.*")


class Redactor:
    """Removes what it knows to be secret, and what looks so."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        """`values` are secrets as they are kept; of several lines each is one."""
        lines = {line.strip() for value in values for line in (value, *value.splitlines())}
        found = {form for line in lines for form in _forms(line) if len(form) >= SHORTEST}
        self._known = sorted(found, key=len, reverse=True)
        """The longest first, for one may be part of another. Each is searched by itself: an alternation of very many in
        one pattern takes a hundred times as long."""

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        for form in self._known:
            text = text.replace(form, GONE)
        text = KEY_BLOCK.sub(GONE, text)
        text = _without_named(MD5_KEYS.sub(rf"\g<1>{GONE}", text))
        text = IN_URL.sub(rf"\g<1>{GONE}@", text)
        return AUTHORIZATION.sub(rf"\g<1>{GONE}", text)


def sounds_secret(name: str) -> bool:
    """Whether what bears this name is a secret."""
    return SOUNDS.search(name) is not None


def _without_named(text: str) -> str:
    """The text without the values of names that sound like a secret; in time that its length alone decides."""
    parts, at = [], 0
    for found in NAME.finditer(text):
        name, between = found.groups()
        is_word = between.isspace() and not name.startswith("-")
        if found.start() < at or is_word or not sounds_secret(name):
            continue
        value = VALUE.match(text, found.end())
        if value is not None:
            parts += [text[at : found.end()], GONE]
            at = value.end()
    return "".join((*parts, text[at:]))


def _forms(value: str) -> Iterator[str]:
    """A value as it is, escaped, in base64 wherever it begins in what was encoded, and in hexadecimal."""
    if len(value) < SHORTEST:
        return
    yield value
    for escaped in (json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value)):
        yield escaped[1:-1]
    for url in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield url
        yield re.sub("%..", lambda found: found[0].lower(), url)
    yield "".join(one if one.isalnum() else f"\\{one}" for one in value)
    data = value.encode(errors="replace")
    for offset, start in enumerate((0, 2, 3)):
        whole = base64.b64encode(b"\0" * offset + data)[start : (offset + len(data)) * 8 // 6].decode()
        yield whole
        yield whole.translate(str.maketrans("+/", "-_"))
    for digits in (data.hex(), data.hex(" "), data.hex(":")):
        yield digits
        yield digits.upper()
