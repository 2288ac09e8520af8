"""The two towers. Both are pure functions of their inputs, and what they return has unit norm."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearline.features import DIMENSION, NUMERIC_COUNT, TEXT_BUCKETS, TYPE_CODES

ID_BUCKETS = 16_384
HEADS = 4
MASKED = -1e4  # a score whose softmax is 0 next to any other, and finite when a whole history is masked

# How much louder than a purchase an event of a type speaks, as a factor on its attention. Only purchases are in the
# demo's data, so these are stated, not learnt; None: the event is in the history but does not pull the vector.
TYPE_WEIGHTS: Mapping[str, float | None] = {
    "view": 0.5,
    "click": 1.0,
    "add_to_cart": 1.0,
    "purchase": 1.0,
    "like": 1.5,
    "dislike": None,
    "skip": None,
}


class ItemTower(nn.Module):  # type: ignore[misc]
    """An item's words, pairs, trigrams, category and numbers, plus what was learnt about this very item.

    An item that training never saw has no learnt part: ``id_owner`` keeps the id's whole hash beside each bucket, so
    a new item can not borrow another item's vector by a collision. It is then what id dropout trained: text alone.
    """

    def __init__(self, *, id_dropout: float = 0.3, text_dropout: float = 0.1) -> None:
        super().__init__()
        self.text = nn.Parameter(torch.randn(TEXT_BUCKETS, DIMENSION) * 0.1)
        self.ids = nn.Parameter(torch.zeros(ID_BUCKETS, DIMENSION))
        self.register_buffer("id_owner", torch.zeros(ID_BUCKETS, dtype=torch.int32))
        self.id_owner: Tensor
        self.numbers = nn.Linear(NUMERIC_COUNT, DIMENSION)
        self.mix = nn.Sequential(nn.Linear(DIMENSION, 2 * DIMENSION), nn.GELU(), nn.Linear(2 * DIMENSION, DIMENSION))
        self.id_dropout, self.text_dropout = id_dropout, text_dropout

    def own_ids(self, tokens: Tensor) -> None:
        """Give the buckets to the ids in ``tokens[:, 0]``; of two ids in one bucket the later has it."""
        owners = tokens[:, 0]
        self.id_owner[(owners % ID_BUCKETS).long()] = owners

    def forward(self, tokens: Tensor, numeric: Tensor) -> tuple[Tensor, Tensor]:
        """Candidate and history vectors, both (batch, dim); at present they are one and the same."""
        owner = tokens[:, 0]
        bucket = owner.remainder(ID_BUCKETS)
        owned = (F.embedding(bucket, self.id_owner[:, None])[:, 0] == owner) & (owner != 0)
        own = F.embedding(bucket, self.ids).float() * owned[:, None]  # (batch, dim)
        words = tokens[:, 1:]
        if self.training:
            own = own * (torch.rand(len(tokens), 1) >= self.id_dropout)
            words = words * (torch.rand(words.shape) >= self.text_dropout)
        count = (words > 0).sum(1, keepdim=True).clamp(min=1)
        mixed = own + self._sum(words) / count.sqrt() + self.numbers(numeric)
        vector = F.normalize(mixed + self.mix(mixed), dim=1)
        return vector, vector

    def _sum(self, words: Tensor) -> Tensor:
        """The sum of the words' rows; the exporter has no embedding bag, training would crawl without it."""
        if torch.onnx.is_in_onnx_export():
            return (F.embedding(words, self.text).float() * (words > 0)[:, :, None]).sum(1)
        return F.embedding_bag(words, self.text, mode="sum", padding_idx=0)


class PooledUserTower(nn.Module):  # type: ignore[misc]
    """Attention pooling: four questions, coloured by the newest event, put to the history; the answers are mixed."""

    def __init__(self, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.questions = nn.Linear(DIMENSION, HEADS * DIMENSION)
        self.age_scores = nn.Linear(3, HEADS, bias=False)
        self.mix = nn.Sequential(
            nn.Linear((HEADS + 1) * DIMENSION, 2 * DIMENSION),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * DIMENSION, DIMENSION),
        )
        self.register_buffer("type_scores", torch.tensor([MASKED, *map(_type_score, TYPE_CODES)]))
        self.type_scores: Tensor

    def forward(self, vectors: Tensor, ages: Tensor, types: Tensor) -> Tensor:
        """The users' vectors, (batch, dim); finite and of unit norm even when everything is masked."""
        history = vectors.float()  # (batch, history, dim)
        type_scores = F.embedding(types, self.type_scores[:, None])  # (batch, history, 1)
        fading = torch.stack([ages / 5, torch.exp(-ages), torch.exp(-ages / 3)], dim=2)
        newest = history[:, 0]
        questions = self.questions(newest).view(-1, HEADS, DIMENSION)
        scores = history @ questions.transpose(1, 2) + self.age_scores(fading) + type_scores  # (batch, history, heads)
        attention = torch.softmax(scores, dim=1) * (type_scores > MASKED / 2)
        answers = attention.transpose(1, 2) @ history  # (batch, heads, dim)
        mixed = self.mix(torch.cat([answers.flatten(1), newest], dim=1))
        return F.normalize(answers.mean(1) + mixed, dim=1)


def _type_score(name: str) -> float:
    weight = TYPE_WEIGHTS[name]
    return MASKED if weight is None else float(torch.tensor(weight).log())
