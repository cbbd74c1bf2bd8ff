"""What can go wrong between a process and its kernel, sorted by what the caller must do.

Promises: whatever goes wrong is a KernelError with the kernel's own words. Does not know: what was asked, nor of whom.
"""

from __future__ import annotations


class KernelError(Exception):
    """The kernel said no; the text is its own word, with what was asked."""


class Unsupported(KernelError):
    """This kernel lacks a feature (EOPNOTSUPP and its kin); trying again will not help."""


class NoWay(KernelError):
    """There is no route to a host (ENETUNREACH, EHOSTUNREACH)."""


class Incomplete(KernelError):
    """A dump was interrupted more often than the bound allows: what was read must not be trusted."""
