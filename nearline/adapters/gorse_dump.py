"""Reads Gorse's binary dump (``GET /api/dump`` of its master), with protobuf.

A dump is a stream of frames, each with a 64-bit little-endian number: -1, -2 or -3 where users, items or feedback
begin, 0 at the end, else the size of the message that follows. Gorse appends statistics after the end: not read.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from nearline.errors import BadInput

_KINDS: Mapping[int, str] = {-1: "users", -2: "items", -3: "feedback"}
_MESSAGES: Mapping[str, str] = {"users": "User", "items": "Item", "feedback": "Feedback"}
_MOST_BYTES = 64 * 1024 * 1024  # of one message; a larger size is refused
_TEXT, _BYTES, _TRUTH, _NUMBER, _TIME = "string", "bytes", "bool", "double", "time"
# protocol/protocol.proto of Gorse: number, name as in its JSON, type; the parser skips the fields that we do not use.
_FIELDS: Mapping[str, tuple[tuple[int, str, str], ...]] = {
    "User": ((1, "UserId", _TEXT), (2, "Labels", _BYTES), (3, "Comment", _TEXT)),
    "Item": (
        (2, "ItemId", _TEXT),
        (3, "IsHidden", _TRUTH),
        (4, "Categories", _TEXT),
        (5, "Timestamp", _TIME),
        (6, "Labels", _BYTES),
        (7, "Comment", _TEXT),
    ),
    "Feedback": (
        (2, "FeedbackType", _TEXT),
        (3, "UserId", _TEXT),
        (4, "ItemId", _TEXT),
        (5, "Value", _NUMBER),
        (6, "Timestamp", _TIME),
        (7, "Comment", _TEXT),
        (9, "Labels", _BYTES),
    ),
}
# google.protobuf.Timestamp
_TIME_FIELDS = ((1, "seconds", "int64"), (2, "nanos", "int32"))
_TYPES = descriptor_pb2.FieldDescriptorProto
_TYPE_OF = {
    _TEXT: _TYPES.TYPE_STRING,
    _BYTES: _TYPES.TYPE_BYTES,
    _TRUTH: _TYPES.TYPE_BOOL,
    _NUMBER: _TYPES.TYPE_DOUBLE,
    "int64": _TYPES.TYPE_INT64,
    "int32": _TYPES.TYPE_INT32,
}


def read_dump(stream: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (users, items or feedback; the record as in Gorse's JSON) per record; ``BadInput`` if it is no dump."""
    classes = message_classes()
    kind = ""
    while (number := _number(stream)) != 0:
        if number in _KINDS:
            kind = _KINDS[number]
        elif kind and 0 < number <= _MOST_BYTES:
            yield kind, _record(classes[_MESSAGES[kind]], _exactly(stream, number))
        else:
            raise _no_dump(stream, f"{number} is neither the size of a record nor the start of a part")


def message_classes() -> dict[str, Any]:
    """The classes of Gorse's messages, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="gorse_dump.proto", package="gorse_dump", syntax="proto3")
    for message, known in {**_FIELDS, "Time": _TIME_FIELDS}.items():
        described = file.message_type.add(name=message)
        for number, name, kind in known:
            described.field.append(_field(number, name, kind))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"gorse_dump.{name}") for name in _FIELDS}
    return {name: message_factory.GetMessageClass(about) for name, about in found.items()}


def _field(number: int, name: str, kind: str) -> Any:
    label = _TYPES.LABEL_REPEATED if name == "Categories" else _TYPES.LABEL_OPTIONAL
    if kind == _TIME:
        return _TYPES(name=name, number=number, label=label, type=_TYPES.TYPE_MESSAGE, type_name=".gorse_dump.Time")
    return _TYPES(name=name, number=number, label=label, type=_TYPE_OF[kind])


def _record(message_class: Any, raw: bytes) -> dict[str, Any]:
    try:
        message = message_class.FromString(raw)
    except DecodeError as error:
        raise BadInput("no_dump", f"a record of the dump is not what Gorse writes: {error}") from None
    known = _FIELDS[message.DESCRIPTOR.name]
    return {name: _value(getattr(message, name), kind, name) for _, name, kind in known}


def _value(value: Any, kind: str, name: str) -> Any:
    if kind == _TIME:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
        return moment.isoformat()
    if kind == _BYTES:
        return json.loads(value) if value else None
    return list(value) if name == "Categories" else value


def _number(stream: BinaryIO) -> int:
    return int(struct.unpack("<q", _exactly(stream, 8))[0])


def _exactly(stream: BinaryIO, size: int) -> bytes:
    raw = stream.read(size)
    if len(raw) != size:
        raise _no_dump(stream, "it ends in the middle of a record; the download may have been cut off")
    return raw


def _no_dump(stream: BinaryIO, why: str) -> BadInput:
    where = f" at byte {stream.tell():,}" if stream.seekable() else ""
    return BadInput("no_dump", f"this is no dump of Gorse (GET /api/dump of its master){where}: {why}")
