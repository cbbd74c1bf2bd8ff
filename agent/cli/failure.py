"""How a command says that it failed: one sentence, exit code 1. Knows nothing else."""

from __future__ import annotations


class CommandFailed(Exception):
    """One sentence for the person at the terminal."""
