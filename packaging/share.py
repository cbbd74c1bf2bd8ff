"""Writes share/: the manual page and the shells' completions, made from the command line's own parser.

`python packaging/share.py [DIRECTORY]`; the files are kept in the repository, and a test compares them, so that an
installation needs neither of the libraries that make them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from agent.cli.main import parser

ROOT = Path(__file__).parent.parent
COMPLETIONS = {
    "bash": "bash-completion/completions/tortie",
    "zsh": "zsh/site-functions/_tortie",
    "fish": "fish/vendor_completions.d/tortie.fish",
}
MANUAL = "man/man1/tortie.1"
SEE_ALSO = """\
.SH FILES
.TP
.I /etc/tortie/agent.toml
the node's settings; each is explained by \\fBtortie config reference\\fR
.TP
.I /run/tortie/agent.sock
where the agent answers
.SH SEE ALSO
.BR ip-route (8),
.BR systemctl (1),
.BR etcdctl (1)
"""


def files() -> dict[str, str]:
    """Every file of share/ by its path."""
    found = {path: shtab.complete(parser(), shell) for shell, path in COMPLETIONS.items()}
    return {path: text.rstrip() + "\n" for path, text in (found | {MANUAL: manual()}).items()}


def manual() -> str:
    """tortie(1)."""
    page = parser()
    page.man_short_description = "pod routes for Linux nodes: IPAM in etcd, CNI, netlink and BGP"  # type: ignore[attr-defined]
    made = Manpage(page, format="single-commands-section")
    made.date, made.manual = "", "Tortie"
    text = str(made).replace("\\,", "").replace("\\/", "")
    body, _, epilog = text.partition(".SH COMMENTS\n")
    return f"{body}.SH EXAMPLES AND EXIT STATUS\n.nf\n{epilog.rstrip()}\n.fi\n{SEE_ALSO}"


def main() -> None:
    """The entry point."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "share"
    for path, text in files().items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)


if __name__ == "__main__":
    main()
