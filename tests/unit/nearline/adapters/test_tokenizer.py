"""The tokenizer of a text encoder: the file that the towers name and no other, and arrays of one length."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearline.adapters.tokenizer import open_tokenizer
from nearline.errors import Misconfigured
from nearline.features import ATTENTION_MASK, INPUT_IDS, Features, TextEncoder
from nearline.items import Item

WORDS = {"[UNK]": 0, "[PAD]": 1, "red": 2, "lamp": 3, "tea": 4, ".": 5}


def write(path: Path, **changes: Any) -> str:
    """Write a tokenizer of whole words; return its SHA-256."""
    described: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"},
    }
    path.write_text(json.dumps(described | changes))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokenizer.json"


def tokens(path: Path, digest: str, *texts: str, length: int = 4) -> tuple[Any, Any]:
    tokenizer = open_tokenizer(path, TextEncoder(digest, length))
    assert tokenizer is not None
    ids, mask = tokenizer(texts)
    assert ids.dtype == mask.dtype == np.int64
    assert ids.shape == mask.shape == (len(texts), length)
    return ids.tolist(), mask.tolist()


def test_short_texts_are_padded_and_long_ones_cut(path: Path) -> None:
    ids, mask = tokens(path, write(path), "Red LAMP", "", "red red red red red lamp", "🔥")
    assert ids == [[2, 3, 1, 1], [1, 1, 1, 1], [2, 2, 2, 2], [0, 1, 1, 1]]
    assert mask == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_no_texts_give_no_rows(path: Path) -> None:
    assert tokens(path, write(path)) == ([], [])


def test_the_files_own_padding_token_and_side_are_kept_and_its_lengths_are_not(path: Path) -> None:
    own = {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 5, "pad_type_id": 0}
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    ids, mask = tokens(path, write(path, padding=own | {"pad_token": "."}, truncation=cut), "red lamp tea")
    assert (ids, mask) == ([[5, 2, 3, 4]], [[0, 1, 1, 1]])


def test_a_file_without_a_padding_token_is_padded_with_0(path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"x": 0, "red": 1}, "unk_token": "x"}
    assert tokens(path, write(path, model=model), "red") == ([[1, 0, 0, 0]], [[1, 0, 0, 0]])


def test_the_item_tower_is_given_what_it_reads(path: Path) -> None:
    encoder = TextEncoder(write(path), 6)
    inputs = Features(text_encoder=encoder).item_inputs(
        [("i", Item("Red lamp", description="tea"))], open_tokenizer(path, encoder)
    )
    assert inputs[INPUT_IDS].tolist() == [[2, 3, 5, 4, 1, 1]]
    assert inputs[ATTENTION_MASK].tolist() == [[1, 1, 1, 1, 0, 0]]


def test_towers_without_an_encoder_need_no_tokenizer(path: Path) -> None:
    assert open_tokenizer(None, None) is None
    assert open_tokenizer(path, None) is None


def test_a_tokenizer_that_is_not_set_is_asked_for_by_the_settings_name() -> None:
    with pytest.raises(Misconfigured, match=r"set NEARLINE_TOKENIZER .*abab"):
        open_tokenizer(None, TextEncoder("ab" * 32, 4))


def test_another_tokenizer_is_refused_with_both_digests(path: Path) -> None:
    digest = write(path)
    with pytest.raises(Misconfigured, match=rf"SHA-256 {digest}, .*{'ab' * 32}"):
        open_tokenizer(path, TextEncoder("ab" * 32, 4))


def test_a_file_that_is_missing_or_no_tokenizer_is_refused_by_its_name(path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"tokenizer\.json: No such file"):
        open_tokenizer(path, TextEncoder("ab" * 32, 4))
    path.write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    with pytest.raises(Misconfigured, match=r"tokenizer\.json is no tokenizer\.json"):
        open_tokenizer(path, TextEncoder(digest, 4))
