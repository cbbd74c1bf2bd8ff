"""The messages and stubs of etcd3 0.12 on today's protobuf; the only door to that package.

Promises: `rpc` has the message classes and stubs of etcd's v3 API. Does not know: connections, keys.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

from ipam.etcd.store import Versioned

# How and why. The files that protoc generated for etcd3 in 2020 (`kv_pb2.py` …) do not import with protobuf 4 and
# later: they build descriptors by calls that are gone. But each holds, as a literal, the serialized FileDescriptorProto
# of its .proto file. That literal is read from the source text without running it, the message classes are built from
# it by protobuf's public API, and modules with these classes are put where the generated gRPC stubs, which still work,
# will import them from. etcd3's own client is not imported: it takes a sixth of the time in which a command starts.

FILES = ("kv", "auth", "rpc")
"""In the order in which they depend on each other."""
LITERAL = re.compile(r"""^  serialized_pb=(?:_b\()?(b?'(?:[^'\\\n]|\\.)*')""", re.MULTILINE)


def _package_directory() -> Path:
    spec = importlib.util.find_spec("etcd3")  # finds without importing
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the package etcd3 (0.12.0) is missing; run: pip install -r requirements.lock")
    return Path(spec.submodule_search_locations[0]) / "etcdrpc"


def _descriptor(source: str) -> descriptor_pb2.FileDescriptorProto:
    """The serialized descriptor that a generated file holds as a literal."""
    found = LITERAL.search(source)
    if found is None:
        raise ImportError("etcd3's generated files do not look like those of 0.12.0; pin etcd3==0.12.0")
    literal = ast.literal_eval(found[1])
    packed = literal if isinstance(literal, bytes) else literal.encode("latin1")
    return descriptor_pb2.FileDescriptorProto.FromString(packed)


def _add_errors(described: descriptor_pb2.FileDescriptorProto) -> None:
    """A field of rpc.proto that is newer than etcd3: `repeated string errors = 8` of StatusResponse (etcd 3.4)."""
    (status,) = (message for message in described.message_type if message.name == "StatusResponse")
    status.field.add(
        name="errors",
        number=8,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    )


def _load() -> Any:
    """etcd3's package of stubs, over message modules built here."""
    directory = _package_directory()
    pool = descriptor_pool.DescriptorPool()
    for name in FILES:
        described = _descriptor((directory / f"{name}_pb2.py").read_text())
        if name == "rpc":
            _add_errors(described)
        pool.Add(described)
        file = pool.FindFileByName(f"{name}.proto")
        module = types.ModuleType(f"etcd3.etcdrpc.{name}_pb2")
        for message, descriptor in file.message_types_by_name.items():
            setattr(module, message, message_factory.GetMessageClass(descriptor))
        for enum, values in file.enum_types_by_name.items():
            setattr(module, enum, enum_type_wrapper.EnumTypeWrapper(values))
            for value in values.values:
                setattr(module, value.name, value.number)
        module.DESCRIPTOR = file  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
    return _imported("etcd3.etcdrpc", directory)


def _imported(name: str, directory: Path) -> types.ModuleType:
    """Import a package from its directory, without the package above it."""
    places = [str(directory)]
    spec = importlib.util.spec_from_file_location(
        name, directory / "__init__.py", submodule_search_locations=places
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{directory} is no package; pin etcd3==0.12.0")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    for part in FILES:  # else importing them from it looks for the package above
        setattr(module, f"{part}_pb2", sys.modules[f"{name}.{part}_pb2"])
    spec.loader.exec_module(module)
    return module


rpc: Any = _load()
"""etcd's v3 API: RangeRequest, TxnRequest, KVStub, WatchStub, LeaseStub, AuthStub …"""


def text_of_key(key: bytes) -> str:
    """A key as text: anybody may write one that is no UTF-8, and it must hide no other. `key_bytes` takes it back."""
    return key.decode("utf-8", "surrogateescape")


def key_bytes(key: str) -> bytes:
    """A key as etcd has it."""
    return key.encode("utf-8", "surrogateescape")


def versioned(kv: Any) -> Versioned:
    """The value of a KeyValue message."""
    return Versioned(text_of_key(kv.key), kv.value, kv.mod_revision, kv.lease)


def end_of(prefix: bytes) -> bytes:
    """The end of the range of all keys with a prefix: the prefix with its last byte raised (etcd's own rule)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
