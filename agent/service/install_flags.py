"""The flags of `tortie install`, which runs from the command line and, before that is there, from the wheel.

Promises: nothing but argparse is imported, so help is quick. Does not know: what the flags do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

INSTALL_EXAMPLES = """\
examples:
  tortie install --wheels dist --start
  PYTHONPATH=dist/tortie-0.1.0-py3-none-any.whl python3 -m agent.service.install --wheels dist --start
"""


def add_install_flags(found: argparse.ArgumentParser) -> None:
    """The flags of `tortie install`."""
    found.add_argument(
        "--wheels", type=Path, default=Path("dist"), metavar="DIR", help="with tortie's wheel (default: dist)"
    )
    found.add_argument("--online", action="store_true", help="dependencies come from the package index")
    found.add_argument("--packaged", action="store_true", help="a package has placed the files already")
    found.add_argument("--start", action="store_true", help="enable the service and start it now")
