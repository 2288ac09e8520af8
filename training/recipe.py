"""The recipe: everything that determines a training run besides the data and the seed."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_args, get_type_hints

from nearline.errors import Misconfigured
from nearline.features import DIMENSION, HISTORY_LENGTH, TEXT_BUCKETS, TOKEN_COUNT, Features, TextEncoder

POOLED, TRANSFORMER, CAUSAL = "pooled", "transformer", "causal"
FULL, SAMPLED = "full", "sampled"
PLAIN, LOGQ, CORRECTED = "plain", "logq", "corrected"
COUNTS, STREAMING = "counts", "streaming"
FP32, BF16 = "fp32", "bf16"
EVEN, IDF = "even", "idf"
CHOICES: Mapping[str, tuple[str, ...]] = {
    "user_tower": (POOLED, TRANSFORMER, CAUSAL),
    "token_weights": (EVEN, IDF),
    "softmax": (FULL, SAMPLED),
    "correction": (PLAIN, LOGQ, CORRECTED),
    "frequency": (COUNTS, STREAMING),
    "precision": (FP32, BF16),
}


@dataclass(frozen=True)
class Recipe:
    """One training run's settings; the defaults are those of the demo's towers (docs/model.md says what each did)."""

    # the towers
    user_tower: str = POOLED
    layers: int = 1  # of the transformer and of the causal one
    heads: int = 4
    dimension: int = DIMENSION
    history_length: int = HISTORY_LENGTH
    token_count: int = TOKEN_COUNT
    text_buckets: int = TEXT_BUCKETS
    separate_history: bool = False  # a history vector of its own beside the candidate vector
    token_weights: str = EVEN  # idf: a word of few items says more of an item than one of many
    item_layer: bool = True  # a residual layer over an item's sum
    id_start: float = 0.0  # how large the items' own parts begin; for ids alone (token_count=1) .001, not 0
    id_dropout: float = 0.3
    text_dropout: float = 0.1
    dropout: float = 0.4
    # the histories, while training
    packed: bool = False  # every event of a sequence is a target, in one pass; then nothing is shortened or lost
    shorten: float = 0.5  # the share that keeps a random number of newest events
    lose: float = 0.5  # the share that loses some of its newest events, as if a click had not arrived yet
    # the loss
    softmax: str = SAMPLED
    correction: str = CORRECTED
    uniform_negatives: int = 1000
    frequency: str = COUNTS
    temperature: float = 0.1  # the first one
    learn_temperature: bool = True
    label_smoothing: float = 0.0  # the share of a target that is spread over all candidates
    seen_rivals: bool = True  # whether what a user had before competes with the target, as it does where it is answered
    repeat_weight: float = 0.3  # of a target that its user had before
    half_life_days: float = 30.0  # an example's weight halves with its age in this time; 0: all weigh the same
    first_weight: float = 0.2  # of an example without a history
    type_weights: Mapping[str, float] = field(
        default_factory=dict, hash=False
    )  # of a target, by event type; 1 where not named
    negative_weight: float = 1.0  # of a dislike or a skip as a target to stay away from
    # afterwards
    cold_parity: float = 0.0  # cold items are raised until they fill this many times their share of the catalogue
    # the run
    epochs: int = 14
    patience: int = 0  # epochs without a better NDCG@10 on validation after which it ends, and the best counts; 0: all
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    precision: str = FP32

    def __post_init__(self) -> None:
        """Refuse what no run could use, naming what is possible."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise Misconfigured(f"recipe: {name} must be one of {', '.join(choices)}, came {getattr(self, name)!r}")
        for name in ("layers", "heads", "dimension", "history_length", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise Misconfigured(f"recipe: {name} must be at least 1, came {getattr(self, name)!r}")
        if not self.temperature > 0:
            raise Misconfigured(f"recipe: temperature must be above 0, came {self.temperature!r}")
        if self.cold_parity < 0:
            raise Misconfigured(f"recipe: cold_parity must be 0 or more, came {self.cold_parity!r}")
        if not 0 <= self.label_smoothing < 1:
            raise Misconfigured(f"recipe: label_smoothing must be from 0 up to 1, came {self.label_smoothing!r}")
        if self.packed and self.user_tower != CAUSAL:
            raise Misconfigured(
                f"recipe: packed sequences need user_tower={CAUSAL}, the one that sees no later event; "
                f"came {self.user_tower}"
            )
        if self.dimension % self.heads:
            raise Misconfigured(f"recipe: {self.dimension} dimensions can not be shared by {self.heads} heads")

    def features(self, text_encoder: TextEncoder | None = None) -> Features:
        """The features of towers of this recipe."""
        return Features(
            dimension=self.dimension,
            history_length=self.history_length,
            token_count=self.token_count,
            text_buckets=self.text_buckets,
            text_encoder=text_encoder,
        )

    def as_plain(self) -> dict[str, Any]:
        """The recipe as plain data for JSON."""
        return asdict(self)


def changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """*recipe* with *settings* changed; ``Misconfigured`` with the nearest name for an unknown one."""
    hints = get_type_hints(Recipe)
    known = {f.name for f in fields(Recipe)}
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise Misconfigured(f"recipe: there is no setting {name!r}{guess} Known: {', '.join(sorted(known))}")
    return replace(recipe, **{name: _typed(name, value, hints[name]) for name, value in settings.items()})


def parsed(assignments: Sequence[str]) -> dict[str, Any]:
    """Settings given as ``name=value`` texts."""
    pairs = [text.partition("=") for text in assignments]
    for name, equals, _ in pairs:
        if not equals:
            raise Misconfigured(f"a setting is given as name=value, came {name!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _typed(name: str, value: Any, hint: Any) -> Any:
    if get_args(hint):
        if not isinstance(value, Mapping):
            raise Misconfigured(f"recipe: {name} must be a table of numbers by event type, came {value!r}")
        return {str(key): float(number) for key, number in value.items()}
    if hint is bool:
        return _truth(name, value)
    try:
        return hint(value)
    except (TypeError, ValueError):
        raise Misconfigured(f"recipe: {name} must be {hint.__name__}, came {value!r}") from None


def _truth(name: str, value: Any) -> bool:
    text = str(value).casefold()
    if text not in ("true", "false", "1", "0"):
        raise Misconfigured(f"recipe: {name} must be true or false, came {value!r}")
    return text in ("true", "1")
