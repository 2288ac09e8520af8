"""Measures answers' recall: the share of the true nearest items, by exact search over the log's own vectors."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.documents import Documents
from benchmarks.stage import LoadedSystem
from benchmarks.traffic import user_id
from nearline.adapters.kafka.table_reader import TableReader
from nearline.item_vectors import decode_item_vector
from nearline.log import Record
from nearline.space import Space
from nearline.topics import item_vectors_topic

K = 50
_CHECKED = 200  # answers compared with exact search
_TIE = 1e-5  # items this close to the fiftieth are as good as it


def recall_at_50(stage: LoadedSystem) -> float:
    """Share of the true fifty nearest in the answers of many users; ties with the fiftieth count as true."""
    stage.say("recall against exact search")
    ids, vectors = asyncio.run(_catalogue(stage.system.bootstrap, stage.settings.embedding_space))
    rows = {one: row for row, one in enumerate(ids)}
    shares = []
    with Documents(stage.settings) as documents:
        for number in range(min(_CHECKED, stage.scale.users)):
            vector, answer = _together(stage, documents, user_id(number))
            found = [rows[item["item_id"]] for item in answer["items"]]
            shares.append(recall(vectors @ vector, found, K))
    return float(np.mean(shares))


def _together(stage: LoadedSystem, documents: Documents, user: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """A user's vector and an answer that used just this one; clicks may come meanwhile."""
    while True:
        document = documents.of(user)
        assert document.vector is not None, f"{user} has no vector"
        answer = stage.probe.ask(user, k=K, exclude_seen="none")
        if answer["vector_version"] == document.vector_version:
            return document.vector, answer


def recall(scores: NDArray[np.float32], found: Sequence[int], k: int) -> float:
    """Share of *found* rows whose score is among the *k* best of *scores*."""
    fiftieth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return float((scores[list(found)] >= fiftieth - _TIE).sum()) / k


async def _catalogue(kafka: str, space: Space) -> tuple[list[str], NDArray[np.float32]]:
    """Every live item's id and vector, read from the topic itself."""
    newest: dict[str, Record] = {}
    async with TableReader(kafka, item_vectors_topic(space)) as reader:
        while not reader.caught_up:
            for record in await reader.poll():
                newest[record.id] = record
    live = {}
    for one, record in newest.items():
        item = decode_item_vector(one, record.value, space) if record.value else None
        if item is not None and item.candidate is not None and item.shown.available:
            live[one] = item.candidate
    return list(live), np.array(list(live.values()), np.float32)
