"""`tortie` without a process of its own: its entry point, with the words, the input and the output of a test."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from agent.cli.main import main


def run(words: Sequence[str], text: str = "") -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err, stdin = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(text)
    code: object = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(words)
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdin = stdin
    if isinstance(code, str):  # as the interpreter does at the end of a process
        return 1, out.getvalue(), f"{err.getvalue()}{code}\n"
    return int(str(code)), out.getvalue(), err.getvalue()


def run_line(line: str, *flags: str) -> tuple[int, str, str]:
    """A line of shell that is nothing but tortie and pipes; the first that fails ends it."""
    text = complaints = ""
    for part in line.split(" | "):
        program, *words = shlex.split(part)
        assert program == "tortie"
        code, text, said = run([*flags, *words], text)
        complaints += said
        if code != 0:
            return code, text, complaints
    return 0, text, complaints
