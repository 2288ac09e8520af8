"""Dead letters: refused input with its original bytes and the reason (version 1)."""

import base64
from dataclasses import dataclass

import orjson

from nearline.log import Record


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One refused record: its origin, its content, and the reason."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None


def letter_about(record: Record, reason: str, detail: str) -> DeadLetter:
    """The dead letter of *record*, refused for *reason*."""
    return DeadLetter(
        reason, detail, record.topic, record.partition, record.offset, record.append_ms, record.key, record.value
    )


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """The dead letter as in the ``…-dlq`` topics; original bytes as base64, ``null`` for none."""
    return orjson.dumps(
        {
            "v": 1,
            "reason": letter.reason,
            "detail": letter.detail,
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "append_ms": letter.append_ms,
            "key_base64": _b64(letter.key),
            "value_base64": _b64(letter.value),
        }
    )


def decode_dead_letter(raw: bytes) -> DeadLetter:
    """The dead letter in *raw*; ``ValueError`` or ``KeyError`` if it is none."""
    body = orjson.loads(raw)
    return DeadLetter(
        reason=body["reason"],
        detail=body["detail"],
        topic=body["topic"],
        partition=body["partition"],
        offset=body["offset"],
        append_ms=body["append_ms"],
        key=_bytes(body["key_base64"]),
        value=_bytes(body["value_base64"]),
    )


def _b64(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
