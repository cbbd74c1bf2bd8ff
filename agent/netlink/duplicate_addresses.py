"""IPv6 addresses of the present namespace that another machine on the link has too, as the kernel has found out.

The kernel looks for a duplicate before it uses an address (RFC 4862 section 5.4), and marks one of which it hears. Of
IPv4 it does not ask, and to hear of a duplicate there (RFC 5227) takes a packet socket: this program has none.
Promises: reads only, a bounded file that the kernel makes from memory. Does not know: whose the addresses are.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path

from agent.foreign_files import read_file

TABLE = Path("/proc/thread-self/net/if_inet6")
MOST_BYTES = 4 << 20
"""Some 55 for each address."""
IFA_F_DADFAILED = 0x08
"""linux/if_addr.h."""


def duplicate_addresses() -> dict[IPv6Address, str]:
    """Address -> the interface that bears it; nothing on a kernel without IPv6."""
    try:
        text = read_file(TABLE, MOST_BYTES).decode(errors="replace")
    except OSError:
        return {}
    found: dict[IPv6Address, str] = {}
    for line in text.splitlines():
        words = line.split()
        with suppress(ValueError, IndexError):
            if int(words[4], 16) & IFA_F_DADFAILED:
                found[IPv6Address(bytes.fromhex(words[0]))] = words[5]
    return found
