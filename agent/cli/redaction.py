"""Takes secrets out of a text before it is given to somebody else; a core.

Promises: what follows a name that sounds like a secret, what stands between `//` and `@` in a URL, and private keys are
gone; names and line numbers stay. It errs on the side of removing. Does not know: where a text is from.
"""

from __future__ import annotations

import re

GONE = "<removed>"
KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
NAMED = re.compile(
    r"""(?ix)
    ( [\w.-]* (?: password | passwd | passphrase | secret | token | credential | key-data | apikey )
      (?! _file | file ) [\w.-]*
      ["']? \s* [:=] \s* )
    (?: "(?:[^"\\\n]|\\.)*" | '[^'\n]*' | [^\s,;}\]]+ )
    """
)
IN_URL = re.compile(r"(\w+://)[^\s/@'\"]+@")
AUTHORIZATION = re.compile(r"(?i)(authorization:\s*)\S.*")


def redacted(text: str) -> str:
    """The text without secrets."""
    text = KEY_BLOCK.sub(GONE, text)
    text = NAMED.sub(rf"\g<1>{GONE}", text)
    text = IN_URL.sub(rf"\g<1>{GONE}@", text)
    return AUTHORIZATION.sub(rf"\g<1>{GONE}", text)
