"""Random answers of services as bytes: of messages that are known here, of ones that are not, and of no message at all.

They are written by hand, field by field, so that they may have what protobuf itself would not write: required fields
that are missing, texts that are not UTF-8, enum values without a name, types that name no message.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    import random

    from google.protobuf.descriptor import Descriptor, FieldDescriptor

FILES = (
    any_pb2,
    descriptor_pb2,  # proto2: it has required fields, and texts that protobuf does not check
    duration_pb2,
    empty_pb2,
    error_details_pb2,
    field_mask_pb2,
    pb,
    status_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
MAX_DEPTH = 6
HOLDERS = (
    any_pb2.Any.DESCRIPTOR,
    pb.Operation.DESCRIPTOR,
    status_pb2.Status.DESCRIPTOR,
    struct_pb2.ListValue.DESCRIPTOR,
    struct_pb2.Struct.DESCRIPTOR,
    descriptor_pb2.UninterpretedOption.NamePart.DESCRIPTOR,
)
NAMES = (
    "progress",
    "progress_percent",
    "state",
    "target",
    "verb",
    "end_time",
    "create_time",
    "partial_errors",
    "failures",
)
"""Fields of a Struct in which progress, times and partial failures are looked for."""
NUMBERS = (0, 1, 2, 5, 42, 100, 127, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (0.0, -0.0, 0.5, 42.0, 1e300, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    b"",
    b"o",
    b"\xff",
    b"a\0b",
    b"\xed\xa0\x80",
    b"2026-01-31T08:00:00Z",
    b"0000-00-00T00:00:00Z",
    b"RUNNING",
    b"%s %d {0}",
)
URLS = ("type.googleapis.com/", "/", "", "x//", "\u00e9/")
NO_TYPES = (
    "no.Such",
    "",
    ".",
    "a..b",
    "google.protobuf.Struct.FieldsEntry",
    "google.protobuf.NullValue",
    "google.protobuf",
)


class RandomMessages:
    """Makes bytes of messages, by chance."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self._types = [
            each for file in FILES for top in file.DESCRIPTOR.message_types_by_name.values() for each in _all(top)
        ]

    def operation(self, name: bytes) -> bytes:
        """Return an answer to a Get: most are operations of that name, some have lost or changed a few bytes."""
        choose = self.random
        raw = field(1, choose.choice([name] * 8 + [b"", b"projects/7/operations/" + name, b"another", *TEXTS]))
        if choose.random() < 0.8:
            raw += number(3, 1)
        if choose.random() < 0.7:
            raw += field(2, self.any())
        for _ in range(choose.choice([0, 1, 1, 1, 2])):
            raw += field(4, self.status()) if choose.random() < 0.4 else field(5, self.any())
        return self._mutated(raw) if choose.random() < 0.3 else raw

    def status(self) -> bytes:
        """Return a google.rpc.Status."""
        raw = number(1, self.random.choice(NUMBERS)) + field(2, self.random.choice(TEXTS))
        return raw + b"".join(field(3, self.any()) for _ in range(self.random.randrange(4)))

    def any(self, depth: int = 0) -> bytes:
        """Return an Any, of a type that is known here or not."""
        # Half of them hold other messages of any type, or numbers that JSON does not have.
        kind = self.random.choice(HOLDERS if self.random.random() < 0.5 and depth < MAX_DEPTH else self._types)
        known = self.random.random() < 0.9
        name = kind.full_name if known else self.random.choice(NO_TYPES)
        url = field(1, (self.random.choice(URLS) + name).encode())
        return url + field(2, self.message(kind, depth + 1))

    def message(self, kind: Descriptor, depth: int = 0) -> bytes:
        """Return a message with some of its fields."""
        if kind.full_name == "google.protobuf.Any" and depth < MAX_DEPTH:
            return self.any(depth)
        if kind.full_name == "google.protobuf.Struct":
            entries = (
                field(1, field(1, self._key()) + field(2, self.message(struct_pb2.Value.DESCRIPTOR, depth + 1)))
                for _ in range(self.random.randrange(3))
            )
            return b"".join(entries)
        chosen = self.random.choices(kind.fields, k=self.random.randrange(4)) if kind.fields else []
        return b"".join(self._field(each, depth) for each in chosen)

    def noise(self) -> bytes:
        """Return bytes of no message."""
        return self.random.randbytes(self.random.randrange(40))

    def _key(self) -> bytes:
        names = (*(name.encode() for name in NAMES), b"__classname__", b"__type", *TEXTS[:2])
        return self.random.choice(names)

    def _field(self, described: FieldDescriptor, depth: int) -> bytes:
        of_type: Any = described
        if described.message_type is not None:
            inner = b"" if depth >= MAX_DEPTH else self.message(described.message_type, depth + 1)
            return field(described.number, inner)
        if of_type.type in (of_type.TYPE_STRING, of_type.TYPE_BYTES):
            return field(described.number, self.random.choice(TEXTS))
        if of_type.type == of_type.TYPE_DOUBLE:
            return varint(described.number << 3 | 1) + struct.pack("<d", self.random.choice(FLOATS))
        if of_type.type == of_type.TYPE_FLOAT:
            return varint(described.number << 3 | 5) + struct.pack("<f", self.random.choice(FLOATS[:4] + FLOATS[5:]))
        return number(described.number, self.random.choice(NUMBERS))

    def _mutated(self, raw: bytes) -> bytes:
        changed = bytearray(raw)
        for _ in range(self.random.randrange(1, 4)):
            changed[self.random.randrange(len(changed))] = self.random.randrange(256)
        return bytes(changed[: self.random.choice([len(changed), self.random.randrange(len(changed) + 1)])])


def _all(kind: Descriptor) -> list[Descriptor]:
    return [kind, *(each for nested in kind.nested_types for each in _all(nested))]


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(which: int, value: int) -> bytes:
    """Return a field with a number."""
    return varint(which << 3) + varint(value)


def field(which: int, value: bytes) -> bytes:
    """Return a field with bytes, a text or a message."""
    return varint(which << 3 | 2) + varint(len(value)) + value
