"""The tokenizer of a pretrained text encoder, from a ``tokenizer.json``: the only file that imports tokenizers.

The encoder itself is part of the item tower in Triton. Its tokenizer runs here, so the towers' declaration names the
file by its SHA-256: with another tokenizer's ids the tower would read other words without any error.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from nearline.errors import Misconfigured
from nearline.features import TextEncoder, Tokenizer

_PADDING_TOKENS = ("[PAD]", "<pad>")


def open_tokenizer(path: Path | None, encoder: TextEncoder | None) -> Tokenizer | None:
    """The tokenizer in *path* for towers with *encoder*; ``None`` if they have no encoder.

    ``Misconfigured`` if the file is missing, not a tokenizer, or not the one that the towers were trained with.
    """
    if encoder is None:
        return None
    if path is None:
        raise Misconfigured(
            "these towers have a pretrained text encoder: set NEARLINE_TOKENIZER to the tokenizer.json that it was "
            f"trained with (SHA-256 {encoder.tokenizer_sha256})"
        )
    return FileTokenizer(_read(path, encoder.tokenizer_sha256), path=path, length=encoder.length)


class FileTokenizer:
    """Turns texts into ids and masks of *length* tokens: longer texts are cut, shorter ones padded."""

    def __init__(self, raw: bytes, *, path: Path, length: int) -> None:
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(raw)
        except Exception as error:  # the library raises plain Exceptions and ValueErrors
            raise Misconfigured(f"{path} is no tokenizer.json: {str(error)[:200]}") from None
        padding = tokenizer.padding or _padding(tokenizer)
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(
            direction=padding.get("direction", "right"),
            pad_id=padding["pad_id"],
            pad_token=padding["pad_token"],
            length=length,
        )
        self._tokenizer = tokenizer
        self._length = length

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and mask of *texts*, each INT64 (n, length); the mask is 1 for a token and 0 for padding."""
        encoded = self._tokenizer.encode_batch(list(texts))
        shape = (len(encoded), self._length)
        return (
            np.array([each.ids for each in encoded], dtype=np.int64).reshape(shape),
            np.array([each.attention_mask for each in encoded], dtype=np.int64).reshape(shape),
        )


def _padding(tokenizer: tokenizers.Tokenizer) -> dict[str, object]:
    """The padding token; any will do if the file names none, since padding is masked."""
    for token in _PADDING_TOKENS:
        number = tokenizer.token_to_id(token)
        if number is not None:
            return {"pad_id": number, "pad_token": token}
    return {"pad_id": 0, "pad_token": _PADDING_TOKENS[0]}


def _read(path: Path, expected: str) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"NEARLINE_TOKENIZER={path}: {error.strerror or error}") from None
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise Misconfigured(
            f"{path} has SHA-256 {found}, the towers were trained with the tokenizer {expected}: "
            "set NEARLINE_TOKENIZER to that file"
        )
    return raw
