"""The two towers: pure functions of their inputs that return vectors of unit norm."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearline.features import CONTEXT_BUCKETS, TYPE_CODES, Features
from training.recipe import CAUSAL, IDF, POOLED, Recipe

MASKED = -1e4  # a score whose softmax is 0 next to any other, and finite when a whole history is masked
FADINGS = 3

# The initial weight of an event of each type relative to a purchase, as a factor on its attention, with its sign. A
# type that is not in the data keeps it.
TYPE_WEIGHTS: Mapping[str, tuple[float, float]] = {
    "view": (0.5, 1.0),
    "click": (1.0, 1.0),
    "add_to_cart": (1.0, 1.0),
    "purchase": (1.0, 1.0),
    "like": (1.5, 1.0),
    "dislike": (1.0, -0.3),
    "skip": (0.5, -0.1),
}


class ItemTower(nn.Module):  # type: ignore[misc]
    """Encodes an item's words, attributes and numbers, plus a part learnt for this very item.

    An item without training events has no own part: a projection of its text replaces it, which id dropout trains.
    Trained ids are found by binary search among their hashes, so a new item cannot use another's part.
    With a text encoder, *sentence* (batch, sentence_size) is the pretrained encoder's vector of the item's text.
    With *weighed* words each counts as ``weigh`` says; without *layer* the sum is the vector, and nothing follows it.
    """

    def __init__(
        self,
        features: Features,
        *,
        id_dropout: float,
        text_dropout: float,
        separate_history: bool,
        sentence_size: int = 0,
        weighed: bool = False,
        layer: bool = True,
    ) -> None:
        super().__init__()
        size = features.dimension
        self.text = nn.Parameter(torch.randn(features.text_buckets, size) * 0.1)
        self.ids = nn.Parameter(torch.zeros(1, size))
        self.register_buffer("sorted_ids", torch.zeros(1, dtype=torch.int32))
        self.sorted_ids: Tensor
        self.numbers = nn.Linear(features.numeric_count, size)
        self.stand_in = nn.Linear(size, size)
        self.sentence = nn.Linear(sentence_size, size) if sentence_size else None
        self.mix = _mixer(size) if layer else None
        self.history_mix = _mixer(size) if separate_history else None
        self.id_dropout, self.text_dropout = id_dropout, text_dropout
        nn.init.zeros_(self.stand_in.weight)
        nn.init.zeros_(self.stand_in.bias)
        if not layer:  # what all items share would drown what tells them apart, and no layer could take it out again
            nn.init.zeros_(self.numbers.weight)
            nn.init.zeros_(self.numbers.bias)
        # Only where it is used: towers that were saved without it still load.
        self.register_buffer("word_weights", torch.ones(features.text_buckets) if weighed else None)
        self.word_weights: Tensor | None

    def own_ids(self, id_tokens: Tensor, *, scale: float = 0.0) -> None:
        """Give each of these ids, (ids,) as in ``tokens[:, 0]``, an own part, drawn at random with *scale*."""
        self.sorted_ids = torch.unique(id_tokens.int())
        own = torch.zeros(len(self.sorted_ids), self.ids.shape[1])
        self.ids = nn.Parameter(torch.randn_like(own) * scale if scale else own)

    def weigh(self, words: Tensor) -> None:
        """Weigh words by rarity among these items, *words* (items, slots): log(items / items with the word).

        A word of none of them counts as a word of one item.
        """
        assert self.word_weights is not None
        having = torch.bincount(words[words > 0].long(), minlength=len(self.word_weights))
        self.word_weights = (len(words) / having.clamp(min=1)).log().clamp(min=0.1).float()

    def forward(self, tokens: Tensor, numeric: Tensor, sentence: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Candidate and history vectors, both (batch, dim)."""
        words = tokens[:, 1:]
        place, known = self._place(tokens[:, 0])
        if self.training:
            known = known & (torch.rand(len(tokens), device=tokens.device) >= self.id_dropout)
            if self.text_dropout:
                words = words * (torch.rand(words.shape, device=words.device) >= self.text_dropout)
        said = self._said(words, numeric, sentence)
        mixed = said + torch.where(known[:, None], F.embedding(place, self.ids).float(), self.stand_in(said))
        candidate = F.normalize(mixed if self.mix is None else mixed + self.mix(mixed), dim=1)
        if self.history_mix is None:
            return candidate, candidate
        return candidate, F.normalize(mixed + self.history_mix(mixed), dim=1)

    def own_part(self, tokens: Tensor, numeric: Tensor, sentence: Tensor | None = None) -> Tensor:
        """Each item's own part beside its text, (batch, dim): learnt, or the projection that replaces it."""
        place, known = self._place(tokens[:, 0])
        stand_in = self.stand_in(self._said(tokens[:, 1:], numeric, sentence))
        return torch.where(known[:, None], F.embedding(place, self.ids).float(), stand_in)

    def _said(self, words: Tensor, numeric: Tensor, sentence: Tensor | None) -> Tensor:
        """The encoding of an item's text, attributes and numbers, (batch, dim)."""
        said = self._words(words) + self.numbers(numeric)
        return said if self.sentence is None or sentence is None else said + self.sentence(sentence)

    def _words(self, words: Tensor) -> Tensor:
        """The words' rows, weighed, over the root of the sum of their squared weights, (batch, dim)."""
        if self.word_weights is None:
            count = (words > 0).sum(1, keepdim=True).clamp(min=1)
            return self._sum(words) / count.sqrt()
        weights = F.embedding(words, self.word_weights[:, None])[:, :, 0] * (words > 0)
        return self._sum(words, weights) / weights.square().sum(1, keepdim=True).clamp(min=1e-6).sqrt()

    def _place(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Each id's place in ``sorted_ids``, and whether it is there: a bisection that every exporter supports."""
        last = len(self.sorted_ids) - 1
        place = torch.zeros_like(ids)
        step = 1 << last.bit_length()
        while step := step >> 1:
            further = (place + step).clamp(max=last)
            place = torch.where(self._id_at(further) <= ids, further, place)
        return place, self._id_at(place) == ids

    def _id_at(self, place: Tensor) -> Tensor:
        return F.embedding(place, self.sorted_ids[:, None])[:, 0]

    def _sum(self, words: Tensor, weights: Tensor | None = None) -> Tensor:
        """The sum of the words' rows; the exporter has no embedding bag, training would crawl without it."""
        if torch.onnx.is_in_onnx_export() or not words.shape[1]:
            counted = words > 0 if weights is None else weights
            return (F.embedding(words, self.text).float() * counted[:, :, None]).sum(1)
        return F.embedding_bag(words, self.text, mode="sum", padding_idx=0, per_sample_weights=weights)


class UserTower(nn.Module):  # type: ignore[misc]
    """What both sizes share: events as item vector, age, type and place; the user's context; a start without events."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.size, self.length = features.dimension, features.history_length
        self.context = nn.Parameter(torch.zeros(CONTEXT_BUCKETS, self.size))
        self.nobody = nn.Parameter(torch.randn(self.size) * 0.1)
        loudness, sign = torch.tensor([TYPE_WEIGHTS[name] for name in TYPE_CODES]).T
        self.type_scores = nn.Parameter(torch.cat([torch.zeros(1), loudness.log()]))
        self.type_signs = nn.Parameter(torch.cat([torch.zeros(1), sign]))

    def events(self, vectors: Tensor, types: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The history as signed vectors (batch, history, dim), their attention weights and whether they are present."""
        there = types > 0  # (batch, history)
        loudness = F.embedding(types, self.type_scores[:, None])[:, :, 0].masked_fill(~there, MASKED)
        signs = F.embedding(types, self.type_signs[:, None]) * there[:, :, None]
        return vectors.float() * signs, loudness, there

    def start(self, context: Tensor, there: Tensor) -> Tensor:
        """The start before any event: the context, and for a user without events the average user, (batch, dim)."""
        own = (F.embedding(context, self.context).float() * (context > 0)[:, :, None]).sum(1)
        return own + self.nobody * (~there.any(1, keepdim=True))


class PooledUserTower(UserTower):
    """Attention pooling: a few queries, conditioned on the newest event, attend to the history and are mixed."""

    def __init__(self, features: Features, *, heads: int, dropout: float) -> None:
        super().__init__(features)
        self.heads = heads
        self.questions = nn.Linear(self.size, heads * self.size)
        self.age_scores = nn.Linear(FADINGS, heads, bias=False)
        self.place_scores = nn.Parameter(torch.zeros(self.length, heads))
        self.mix = nn.Sequential(
            nn.Linear((heads + 2) * self.size, 2 * self.size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * self.size, self.size),
        )

    def forward(self, vectors: Tensor, ages: Tensor, types: Tensor, context: Tensor) -> Tensor:
        """The users' vectors, (batch, dim); finite and of unit norm even when everything is masked."""
        history, loudness, there = self.events(vectors, types)  # (batch, history, dim)
        start = self.start(context, there)
        newest = history[:, 0]
        questions = self.questions(newest).view(-1, self.heads, self.size)
        scores = history @ questions.transpose(1, 2) + self.age_scores(_fadings(ages)) + self.place_scores
        attention = torch.softmax(scores + loudness[:, :, None], dim=1) * there[:, :, None]
        answers = attention.transpose(1, 2) @ history  # (batch, heads, dim)
        mixed = self.mix(torch.cat([answers.flatten(1), newest, start], dim=1))
        return F.normalize(answers.mean(1) + start + mixed, dim=1)


class TransformerUserTower(UserTower):
    """Attention layers over the history; the last one only for the newest event, which is what is served.

    Pre-norm layers (Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020) as in SASRec (Kang
    and McAuley, 2018), with ages and types beside the places. The answer is a mix of the history's own vectors, weighed
    by the last layer's attention, and what the layers made of them: without the former it learns far too slowly.
    """

    def __init__(self, features: Features, *, heads: int, layers: int, dropout: float) -> None:
        super().__init__(features)
        self.places = nn.Parameter(torch.randn(self.length, self.size) * 0.02)
        self.fading = nn.Linear(FADINGS, self.size, bias=False)
        self.kinds = nn.Parameter(torch.zeros(len(TYPE_CODES) + 1, self.size))
        self.enter = nn.LayerNorm(self.size)
        self.layers = nn.ModuleList(_Layer(self.size, heads, dropout) for _ in range(layers))
        self.leave = nn.Linear(self.size, self.size)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.leave.weight)  # it begins as the mean of the history, which is far better than noise
        nn.init.zeros_(self.leave.bias)

    def forward(self, vectors: Tensor, ages: Tensor, types: Tensor, context: Tensor) -> Tensor:
        """The users' vectors, (batch, dim); finite and of unit norm even when everything is masked."""
        history, loudness, there = self.events(vectors, types)
        start = self.start(context, there)
        said = history + self.places + self.fading(_fadings(ages)) + F.embedding(types, self.kinds)
        flow = self.dropout(self.enter(said + start[:, None]))  # (batch, history, dim)
        for layer in self.layers[:-1]:
            flow, _ = layer(flow, flow, loudness[:, None, None, :])
        newest, attention = self.layers[-1](flow[:, :1], flow, loudness[:, None, None, :])
        attended = (attention.mean(1) * there[:, None]) @ history  # (batch, 1, dim)
        return F.normalize((attended + self.leave(newest))[:, 0] + start, dim=1)


class CausalUserTower(UserTower):
    """Causal attention: an event attends to itself and older events, so that one pass gives a vector at every event.

    Positions are relative: an event's distance from the attending one, in places and in time, is a bias on each head's
    scores. So an event's encoding does not depend on later events, and ``every`` equals ``forward`` at each of its
    places. Serving uses the newest event only. The result mixes the history's own vectors and the layers' output, as in
    ``TransformerUserTower``.
    """

    def __init__(self, features: Features, *, heads: int, layers: int, dropout: float) -> None:
        super().__init__(features)
        self.kinds = nn.Parameter(torch.zeros(len(TYPE_CODES) + 1, self.size))
        self.enter = nn.LayerNorm(self.size)
        self.layers = nn.ModuleList(_Layer(self.size, heads, dropout) for _ in range(layers))
        self.distances = nn.Parameter(torch.zeros(layers, heads, self.length))  # how far back, in places
        self.age_scores = nn.Linear(FADINGS, heads, bias=False)  # and in time, for the last layer
        self.leave = nn.Linear(self.size, self.size)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.age_scores.weight)
        nn.init.zeros_(self.leave.weight)  # it begins as a mean of the history, which is far better than noise
        nn.init.zeros_(self.leave.bias)

    def forward(self, vectors: Tensor, ages: Tensor, types: Tensor, context: Tensor) -> Tensor:
        """The users' vectors, (batch, dim); finite and of unit norm even when everything is masked."""
        history, loudness, there = self.events(vectors, types)  # newest first
        start = self.start(context, there)[:, None]  # (batch, 1, dim)
        flow = self._flow(history, types, loudness)
        near = self.distances[-1][:, None, : history.shape[1]]  # (heads, 1, history)
        fading = self.age_scores(_fadings(ages)).transpose(1, 2)[:, :, None]  # (batch, heads, 1, history)
        return self._answer(flow[:, :1], flow, start, history, loudness[:, None, None] + near + fading, there)[:, 0]

    def every(self, vectors: Tensor, ages: Tensor, types: Tensor, context: Tensor, asked: Tensor) -> Tensor:
        """The user vectors as of each *asked* place, from the events at it and older, (asked, dim).

        Places index the flattened (batch, length), newest first. *ages* (batch, length, length) are between each pair
        of events, *context* (asked, slots) is what was declared by then.
        """
        history, loudness, there = self.events(vectors, types)
        own = (F.embedding(context, self.context).float() * (context > 0)[:, :, None]).sum(1)
        own = (
            own + self.nobody * (types.flatten()[asked] == 0)[:, None]
        )  # type 0 only beyond the user's oldest event: no event
        start = torch.zeros_like(history).flatten(0, 1).index_copy(0, asked, own.to(history.dtype)).view_as(history)
        flow = self._flow(history, types, loudness)
        fading = self.age_scores(_fadings(ages)).permute(0, 3, 1, 2)  # (batch, heads, length, length)
        bias = loudness[:, None, None] + self._behind(-1, history.shape[1]) + fading
        return self._answer(flow, flow, start, history, bias, there).flatten(0, 1)[asked]

    def _flow(self, history: Tensor, types: Tensor, loudness: Tensor) -> Tensor:
        flow = self.dropout(self.enter(history + F.embedding(types, self.kinds)))  # (batch, history, dim)
        for number, layer in enumerate(self.layers[:-1]):
            flow, _ = layer(flow, flow, loudness[:, None, None] + self._behind(number, history.shape[1]))
        return flow

    def _answer(
        self, asking: Tensor, flow: Tensor, start: Tensor, history: Tensor, bias: Tensor, there: Tensor
    ) -> Tensor:
        heard, attention = self.layers[-1](asking + start, flow, bias)
        attended = (attention.mean(1) * there[:, None]) @ history  # (batch, places, dim)
        return F.normalize(attended + self.leave(heard) + start, dim=2)

    def _behind(self, layer: int, length: int) -> Tensor:
        """The bias of each place on each, (heads, length, length), newest first.

        Newer events are never attended to, not even if all older ones are masked: then empty places are.
        """
        places = torch.arange(length, device=self.distances.device)
        back = places[None, :] - places[:, None]  # (asking, asked)
        return self.distances[layer][:, back.clamp(min=0)].masked_fill(back < 0, 2 * MASKED)


class _Layer(nn.Module):  # type: ignore[misc]
    """One attention layer and its feed-forward; *asking* may be fewer places than *flow*."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.question = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.answer = nn.Linear(size, size)
        self.before, self.between = nn.LayerNorm(size), nn.LayerNorm(size)
        self.think = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, asking: Tensor, flow: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """*asking* (batch, places, dim) after attending to *flow* (batch, history, dim), and each head's attention.

        *bias* is added to the scores, (batch, heads, places, history) or what broadcasts to it.
        """
        question = self._split(self.question(self.before(asking)))  # (batch, heads, places, part)
        key, value = map(self._split, self.key_value(self.before(flow)).chunk(2, dim=2))
        scores = question @ key.transpose(2, 3) / question.shape[3] ** 0.5 + bias
        attention = torch.softmax(scores, dim=3)  # (batch, heads, places, history)
        heard = (attention @ value).transpose(1, 2).flatten(2)
        asking = asking + self.dropout(self.answer(heard))
        return asking + self.dropout(self.think(self.between(asking))), attention

    def _split(self, flow: Tensor) -> Tensor:
        batch, places, size = flow.shape
        return flow.view(batch, places, self.heads, size // self.heads).transpose(1, 2)


class TwoTowers(nn.Module):  # type: ignore[misc]
    """An item tower, a user tower over its history vectors, and the temperature that they are compared at."""

    def __init__(self, features: Features, recipe: Recipe, *, sentence_size: int = 0) -> None:
        super().__init__()
        self.item = ItemTower(
            features,
            id_dropout=recipe.id_dropout,
            text_dropout=recipe.text_dropout,
            separate_history=recipe.separate_history,
            sentence_size=sentence_size,
            weighed=recipe.token_weights == IDF,
            layer=recipe.item_layer,
        )
        self.user = make_user_tower(features, recipe)
        self.log_temperature = nn.Parameter(
            torch.tensor(recipe.temperature).log(), requires_grad=recipe.learn_temperature
        )

    def forward(self, items: tuple[Tensor, ...], places: Tensor, *signals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Users, candidates and temperature: *places* (batch, history) are the histories' rows in *items*.

        *signals* are ages, types and context; where a type is 0 the place does not matter. Packed sequences bring the
        asked places as a fourth one (``CausalUserTower.every``).
        """
        candidates, history = self.item(*items)
        ask = self.user.every if len(signals) == 4 else self.user
        return ask(F.embedding(places, history), *signals), candidates, self.log_temperature.exp()


def make_user_tower(features: Features, recipe: Recipe) -> UserTower:
    """The user tower that *recipe* names."""
    if recipe.user_tower == POOLED:
        return PooledUserTower(features, heads=recipe.heads, dropout=recipe.dropout)
    if recipe.user_tower == CAUSAL:
        return CausalUserTower(features, heads=recipe.heads, layers=recipe.layers, dropout=recipe.dropout)
    return TransformerUserTower(features, heads=recipe.heads, layers=recipe.layers, dropout=recipe.dropout)


def _mixer(size: int) -> Any:
    return nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))


def _fadings(ages: Tensor) -> Tensor:
    """An age unchanged, and decayed at two rates, (…, 3)."""
    return torch.stack([ages / 5, torch.exp(-ages), torch.exp(-ages / 3)], dim=-1)
