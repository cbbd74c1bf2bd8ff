"""The pods that live on this machine, by this machine's own knowledge: a small file for each attachment that ADD made.

A record says all that the datastore held of the attachment: endpoint, handle, attributes of its addresses. An older or
empty datastore does not know it any more; by the record its route stands, nobody else is given its address, and it is
written back. A pod lives while its device is there (for addresses alone: the namespace's path), of this boot, and no
DEL has come for it.
Promises: a record is this machine's, whatever the node was called when it was made: one that was renamed knows its pods
under its new name. It ends with the boot that made it, so it lies in the run directory, in memory: nothing waits for a
disk that others write to, and what a power loss takes has no pod. One that cannot be written is a
trouble until it could be, and no pod waits for it. Bounded: at most MOST_RECORDS files are read.
Does not know: the datastore, who writes what back.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from itertools import islice
from pathlib import Path

import msgspec
import structlog

from agent.cni.attachment import attachment_of, handle_of_endpoint
from agent.datastore.resources.endpoint_form import network_of, on_node
from agent.datastore.resources.resource_types import WorkloadEndpoint, with_revision
from agent.datastore.storage_layout import key_of
from agent.trouble import Trouble, TroubleKind
from ipam.address_text import text_of
from ipam.model import Address, HandleId, NodeName

MOST_RECORDS = 10_000
"""More pods than any kernel's neighbour tables take."""
MOST_BYTES = 64 << 10
REWRITE_SECONDS, MOST_REWRITTEN = 0.4, 64
"""How often what could not be written is tried again, and how many of them at once."""
SUFFIX = ".json"

log = structlog.get_logger()


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What ADD made of one attachment, for the time when the datastore does not know it any more."""

    handle: HandleId
    ips: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...]
    """Of each address, as they are stored: node, boot, namespace, pod …"""
    retained_for: HandleId | None = None
    endpoint: WorkloadEndpoint | None = None
    """None: the addresses alone were asked for, by another plugin."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Its addresses. Raises ValueError."""
        return tuple(map(ip_address, self.ips))

    @property
    def device(self) -> str | None:
        """The host's side of its pair; None where another plugin made the interface."""
        return self.endpoint.spec.interface_name if self.endpoint is not None else None

    @property
    def key(self) -> str | None:
        """The endpoint's etcd key."""
        return key_of(self.endpoint) if self.endpoint is not None else None

    @property
    def words(self) -> Mapping[str, str]:
        """The attributes by name."""
        return dict(self.attributes)

    def on_node(self, node: NodeName) -> Record:
        """The same attachment on this machine under another name."""
        if self.words.get("node", node) == node and (
            self.endpoint is None or self.endpoint.spec.node == node
        ):
            return self
        words = {**self.words, "node": node}
        endpoint = on_node(self.endpoint, node) if self.endpoint is not None else None
        return msgspec.structs.replace(self, attributes=tuple(sorted(words.items())), endpoint=endpoint)

    @property
    def attachment(self) -> tuple[str, str] | None:
        """(container id, interface) that it is of; None when it does not say."""
        if self.endpoint is not None:
            return self.endpoint.spec.container_id or "", self.endpoint.spec.endpoint
        return attachment_of(self.words, self.handle)

    @property
    def name(self) -> str:
        """The pod or the container, for people."""
        words, endpoint = self.words, self.endpoint
        if "pod" in words:
            return f"{words.get('namespace', '')}/{words['pod']}"
        return (endpoint.spec.container_id if endpoint is not None else None) or self.handle


def record_of_endpoint(endpoint: WorkloadEndpoint, boot_id: str) -> Record:
    """The record of an attachment that has none: an older version made it, or the file could not be written."""
    spec = endpoint.spec
    words = {"node": spec.node, "network": network_of(endpoint), "boot": boot_id}
    if spec.orchestrator == "k8s":
        words |= {"namespace": endpoint.metadata.namespace or "", "pod": spec.workload or ""}
    return Record(
        handle=handle_of_endpoint(endpoint),
        ips=tuple(map(text_of, endpoint.addresses)),
        attributes=tuple(sorted(words.items())),
        endpoint=with_revision(endpoint, None),
    )


class LivingPods:
    """All records of one machine; a shell that owns their directory."""

    def __init__(
        self, run: Path, boot_id: str, has_device: Callable[[str], bool], node: NodeName | None = None
    ) -> None:
        """`has_device` says whether a device of this name is there; `node` is what this machine is called now."""
        self._node = node
        self._directory = run / "attachments"
        self._boot_id = boot_id
        self._has_device = has_device
        self._records: dict[HandleId, Record] = {}
        self._by_key: dict[str, Record] = {}
        self._of_device: dict[str, Record] = {}
        self._of_attachment: dict[tuple[str, str] | None, dict[HandleId, Record]] = {}
        self._in_use: dict[Address, HandleId] = {}
        self._unwritten: dict[HandleId, str] = {}
        """Attachments whose file could not be written -> why."""

    # -- who lives ----------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the files of this boot; what has no device any more, or cannot be read, is removed."""
        try:
            entries = sorted(self._directory.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("cni.records_unreadable", directory=str(self._directory), why=str(error))
            return
        for entry in entries[:MOST_RECORDS]:
            record = self._read(entry)
            if record is None or not self._lives(record):
                with suppress(OSError):
                    entry.unlink()
            else:
                self._keep(record.on_node(self._node) if self._node is not None else record)

    def _read(self, path: Path) -> Record | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                record = msgspec.json.decode(file.read(MOST_BYTES), type=Record)
            _ = record.addresses
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("cni.record_unreadable", file=str(path), why=str(error))
            return None
        return record if record.words.get("boot") == self._boot_id else None

    def _lives(self, record: Record) -> bool:
        if record.device is not None:
            return self._has_device(record.device)
        return os.path.exists(record.words.get("netns", ""))

    def __iter__(self) -> Iterator[Record]:
        """The records of the pods that live now."""
        return (record for record in tuple(self._records.values()) if self._lives(record))

    def __contains__(self, handle: object) -> bool:
        """Whether the attachment of this handle lives."""
        record = self._records.get(handle)  # type: ignore[call-overload]
        return record is not None and self._lives(record)

    def record(self, key: str) -> Record | None:
        """The record of the living pod under an endpoint's etcd key; None if none lives there."""
        record = self._by_key.get(key)
        return record if record is not None and self._lives(record) else None

    def of_handle(self, handle: HandleId) -> Record | None:
        """The record of the living attachment that holds a handle's addresses; None if none lives."""
        return self._records.get(handle) if handle in self else None

    def of_device(self, device: str) -> Record | None:
        """The record of the attachment that has a device, living or not; None if nobody is known to have it."""
        return self._of_device.get(device)

    def of_attachment(self, container_id: str, interface: str) -> tuple[Record, ...]:
        """The records of one interface of a container, living or not, whatever their networks and pods."""
        return tuple(self._of_attachment.get((container_id, interface), {}).values())

    def endpoint(self, key: str) -> WorkloadEndpoint | None:
        """The endpoint of the living pod under an etcd key; None if none lives there."""
        record = self.record(key)
        return record.endpoint if record is not None else None

    @property
    def endpoints(self) -> tuple[WorkloadEndpoint, ...]:
        """Those of all living pods."""
        return tuple(record.endpoint for record in self if record.endpoint is not None)

    @property
    def count(self) -> int:
        """How many pods there are, as far as was last looked; addresses alone do not count."""
        return len(self._of_device)

    def has(self, address: Address) -> bool:
        """Whether a living pod has this address."""
        return self._in_use.get(address) in self

    @property
    def in_use(self) -> Mapping[Address, HandleId]:
        """The addresses of all recorded attachments: a view, cheap to ask for with every assignment."""
        return self._in_use

    # -- what ADD, DEL and the kernel say ------------------------------------------------------------------------------

    def add(self, record: Record) -> None:
        """An attachment was made."""
        older = self._of_device.get(record.device or "")
        if older is not None and older.handle != record.handle:
            self.remove(older.handle)  # another container of the same pod had the device before
        self._keep(record)
        self._write(record)

    async def run(self) -> None:
        """Write down again what could not be written, until cancelled."""
        while True:
            await asyncio.sleep(REWRITE_SECONDS)
            for handle in [*self._unwritten][:MOST_REWRITTEN]:
                self._write(self._records[handle])

    def _write(self, record: Record) -> None:
        try:
            _put(self._path(record.handle), msgspec.json.encode(record))
        except (OSError, ValueError) as error:  # a full disk; a text that is no Unicode
            self._unwritten[record.handle] = str(error)
        else:
            self._unwritten.pop(record.handle, None)

    def _keep(self, record: Record) -> None:
        self.forget(record.handle)
        self._records[record.handle] = record
        self._of_attachment.setdefault(record.attachment, {})[record.handle] = record
        if record.key is not None and record.device is not None:
            self._by_key[record.key] = self._of_device[record.device] = record
        self._in_use |= dict.fromkeys(record.addresses, record.handle)

    def forget(self, handle: HandleId) -> None:
        """A record holds no more, in memory: another container has the same endpoint, or the pod is gone."""
        record = self._records.pop(handle, None)
        if record is None:
            return
        self._unwritten.pop(handle, None)
        others = self._of_attachment[record.attachment]
        del others[handle]
        if not others:
            del self._of_attachment[record.attachment]
        if self._by_key.get(record.key or "") is record:
            del self._by_key[record.key or ""]
        if self._of_device.get(record.device or "") is record:
            del self._of_device[record.device or ""]
        for address in record.addresses:
            if self._in_use.get(address) == handle:
                del self._in_use[address]

    def remove(self, handle: HandleId) -> None:
        """A DEL came: nothing holds the attachment's addresses here any more."""
        known = handle in self._records
        self.forget(handle)
        if known:
            with suppress(OSError):
                self._path(handle).unlink()

    def sweep(self) -> None:
        """Forget the attachments whose device went without a DEL: their addresses are the collector's now."""
        for record in tuple(self._records.values()):
            if not self._lives(record):
                self.remove(record.handle)

    def adopt(self, endpoints: Iterable[WorkloadEndpoint]) -> int:
        """Record living attachments that have no record, as their endpoints say; how many."""
        known, found = {record.key for record in self}, 0
        for endpoint in endpoints:
            if key_of(endpoint) not in known and self._has_device(endpoint.spec.interface_name):
                self.add(record_of_endpoint(endpoint, self._boot_id))
                found += 1
        return found

    def troubles(self) -> Iterator[Trouble]:
        """That records could not be written."""
        for why in islice(self._unwritten.values(), 1):
            yield Trouble(
                TroubleKind.JOURNAL,
                str(self._directory),
                f"{len(self._unwritten)} attachments could not be written down: {why}",
                "an older backup of etcd would not know these pods after a restart of the agent",
            )

    def _path(self, handle: HandleId) -> Path:
        name = hashlib.sha256(handle.encode(errors="replace")).hexdigest()[:32]
        return self._directory / f"{name}{SUFFIX}"


def _put(path: Path, content: bytes) -> None:
    """Write a file whole, without a sync: a process that is killed leaves the old one or the new one."""
    temporary, flags = path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, flags, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
