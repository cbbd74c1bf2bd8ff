"""The guest kernel on a CPU that it does not know: the library that is preloaded so that it runs there.

Promises: nothing is preloaded where this CPU's extended state fits the guest kernel's own area; the library is
built anew for each guest, with the machine's own C compiler. Does not know: how a guest is started.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

GUEST_BYTES = 2696
"""What the guest kernel keeps for a process's extended state (HOST_FP_SIZE in its arch/x86/um/user-offsets.c)."""
SOURCES = Path(__file__).parent
COMPILER = ("gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC")
COMPILE_SECONDS = 60.0


def preload(directory: Path, guest_bytes: int = GUEST_BYTES) -> dict[str, str]:
    """What the guest kernel's environment needs on this CPU: nothing, or the library that writes areas of its size."""
    library = compiled("xstate.c", directory)
    return {"LD_PRELOAD": str(library)} if host_bytes(library) > guest_bytes else {}


def host_bytes(library: Path) -> int:
    """How many bytes of extended state this host keeps for a process."""
    ask = ctypes.CDLL(str(library)).xstate_bytes
    ask.restype = ctypes.c_long
    return int(ask())


def compiled(source: str, directory: Path) -> Path:
    """A library out of a C file of this room."""
    library = directory / Path(source).with_suffix(".so")
    words = [*COMPILER, "-o", str(library), str(SOURCES / source), "-ldl"]
    subprocess.run(words, check=True, timeout=COMPILE_SECONDS)
    return library
