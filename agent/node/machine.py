"""Which machine this is: an id that its Node resource bears, so that two machines with one name do not share a record.

The id is made of /etc/machine-id and says nothing of it (machine-id(5): it must not be exposed; HMAC-SHA256 of a number
of ours, as sd_id128_get_machine_app_specific does it). A machine without one gets a random id in the state directory.
Cloned machines often have one /etc/machine-id. So a record also bears the life of its machine: a random id in the run
directory, which ends with the boot (`agent/node/incumbency.py`).
Promises: the same machine has the same id at every start, and the same life until it boots.
Does not know: the datastore.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from pathlib import Path

from agent.datastore.resources.resource_types import MACHINE_ANNOTATION
from agent.durable_files import put_file

MACHINE_ID = Path("/etc/machine-id")
APPLICATION = uuid.UUID("6d1f0c52-9a3e-4b57-8f0e-54a7c1e0b9d4")
ANNOTATION = MACHINE_ANNOTATION
LIFE_ANNOTATION = "projectcalico.org/tortie-machine-life"
CLAIM_ANNOTATION = "projectcalico.org/tortie-machine-claim"
"""The life of a machine with the same id that asks whether the one that has the record still lives."""
RAW = re.compile(r"[0-9a-f]{32}")
MOST_BYTES = 128


def machine_id(setting: str, state: Path, source: Path = MACHINE_ID) -> str:
    """This machine's id; `setting` goes first. Raises OSError when none can be kept in the state directory."""
    if setting:
        return setting
    raw = _read(source)
    if raw is None:
        kept = state / "machine-id"
        raw = _read(kept)
        if raw is None:
            raw = uuid.uuid4().hex
            put_file(kept, f"{raw}\n".encode(), 0o600)
    digest = hmac.new(bytes.fromhex(raw), APPLICATION.bytes, hashlib.sha256).digest()
    return digest[:16].hex()


def machine_life(run: Path) -> str:
    """The id of this machine's life, from one boot to the next. Raises OSError."""
    kept = run / "life"
    raw = _read(kept)
    if raw is None:
        raw = uuid.uuid4().hex
        run.mkdir(mode=0o755, parents=True, exist_ok=True)
        put_file(kept, f"{raw}\n".encode(), 0o600)
    return raw


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES).decode(errors="replace").strip()
    except OSError:
        return None
    return text if RAW.fullmatch(text) else None


def other_machine(annotations: object, own: str) -> str | None:
    """The id of another machine in a record's annotations; None: it is ours, or nobody's yet."""
    found = text_in(annotations, ANNOTATION)
    return found if own and found not in ("", own) else None


def is_same(annotations: object, own: str) -> bool:
    """Whether a record's annotations name this machine."""
    return bool(own) and text_in(annotations, ANNOTATION) == own


def text_in(annotations: object, name: str) -> str:
    """One of a record's annotations; empty when there is none, or no text."""
    found = annotations.get(name) if isinstance(annotations, dict) else None
    return found if isinstance(found, str) else ""


def annotations_in(raw: object) -> object:
    """The annotations of a record as it is stored."""
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    return metadata.get("annotations") if isinstance(metadata, dict) else None
