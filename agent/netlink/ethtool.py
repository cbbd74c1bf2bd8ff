"""Transmit checksum offload of one interface, over the ioctl of ethtool(8) (linux/ethtool.h, linux/sockios.h).

Promises: a kernel or a device without the setting is said to be so. Does not know: when offload does harm.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct

from agent.netlink.kernel_errors import KernelError, Unsupported

SIOCETHTOOL = 0x8946
ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM = 0x16, 0x17
NAME_BYTES, REQUEST_BYTES = 16, 40
ABSENT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)


def read(name: str) -> bool | None:
    """Whether checksums are left to the device; None when the interface has no such setting or is gone."""
    try:
        return bool(_ask(name, ETHTOOL_GTXCSUM, 0))
    except OSError:
        return None


def write(name: str, *, wanted: bool) -> None:
    """Set it. Raises Unsupported, KernelError."""
    try:
        _ask(name, ETHTOOL_STXCSUM, int(wanted))
    except OSError as error:
        words = f"setting checksum offload of {name} {'on' if wanted else 'off'}: {error.strerror}"
        raise (Unsupported if error.errno in ABSENT else KernelError)(words) from error


def _ask(name: str, command: int, data: int) -> int:
    """One request: ifreq with a pointer to ethtool_value (command, data)."""
    value = ctypes.create_string_buffer(struct.pack("=II", command, data), 8)
    request = struct.pack(f"{NAME_BYTES}sP", name.encode(), ctypes.addressof(value)).ljust(
        REQUEST_BYTES, b"\0"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)
    return int(struct.unpack("=II", value.raw)[1])
