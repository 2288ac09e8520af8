"""The loss: a softmax over the catalogue, full or estimated from the batch's items and some random ones.

Every item of the catalogue is among a batch's candidates with a known probability, its inclusion. Dividing a rival's
share by its inclusion (subtracting log Q from its logit: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large
Corpus Item Recommendations", RecSys 2019) makes the sum over the sample an unbiased estimate of the sum over the
catalogue. That paper corrects the target too, though a target is not sampled but always there; with the target left as
it is, the gradient is the full softmax's, whose size is the probability of being wrong (Khrylchenko et al.,
"Correcting the LogQ Correction", RecSys 2025, arXiv 2507.09331, who write that probability as a weight outside).

The other targets of a basket are not its negatives and are masked: an accidental hit is none.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearline.features import TYPE_CODES
from training.recipe import CORRECTED, LOGQ

NEGATIVE_TYPES = ("dislike", "skip")
ROWS_AT_ONCE = 256  # of the logits in ``next_loss``


def inclusion(counts: Tensor, *, draws: int, items: int, uniform: int) -> Tensor:
    """The probability that an item is among *draws* events, or *uniform* of *items* drawn at random, per item."""
    share = counts.double() / counts.sum().clamp(min=1)
    return or_uniform(1 - (1 - share) ** draws, items=items, uniform=uniform)


def or_uniform(chance: Tensor, *, items: int, uniform: int) -> Tensor:
    """The probability of coming with *chance*, or else among *uniform* of all *items* drawn at random, each."""
    absent = (1 - chance.double()) * (1 - 1 / items) ** uniform
    return (1 - absent).clamp(min=1e-6).float()


def basket_loss(
    users: Tensor,  # (batch, dim), unit norm
    candidates: Tensor,  # (candidates, dim), unit norm, each item once
    target_row: Tensor,  # (pairs,)
    target_column: Tensor,  # (pairs,) index into candidates
    weight: Tensor,  # (pairs,)
    temperature: Tensor,
    *,
    log_inclusion: Tensor | None = None,  # (candidates,); None: the candidates are the whole catalogue
    correction: str = CORRECTED,
    unwanted: Tensor | None = None,  # (pairs,) whether the target is one to stay away from
    seen: tuple[Tensor, Tensor] | None = None,  # rows and columns of (batch, candidates) that are no rivals either
    smoothing: float = 0.0,  # the share of a target that goes to all candidates alike
) -> Tensor:
    """Mean cross-entropy of the pairs, weighted; each pair's rivals are all candidates outside its own basket.

    A pair that is *unwanted* costs -log(1 - p) instead of -log p ("unlikelihood", Welleck et al., 2020); it is not
    smoothed.
    """
    logits = users @ candidates.T / temperature  # (batch, candidates)
    joint = torch.zeros_like(logits, dtype=torch.bool)
    joint[target_row, target_column] = True
    if seen is not None:
        joint[seen] = True
    target = logits[target_row, target_column]
    if log_inclusion is not None and correction in (LOGQ, CORRECTED):
        logits = logits - log_inclusion
        target = target if correction == CORRECTED else logits[target_row, target_column]
    rivals = torch.logsumexp(logits.masked_fill(joint, -torch.inf), dim=1)  # (batch,)
    ahead = target - rivals[target_row]  # log(p / (1 - p))
    losses = F.softplus(-ahead) if unwanted is None else F.softplus(torch.where(unwanted, ahead, -ahead))
    if smoothing:
        # The mean logit of all candidates is that of their mean, so no other pass over the logits is needed.
        mean = users @ candidates.mean(0) / temperature  # (batch,)
        spread = torch.logaddexp(target, rivals[target_row]) - mean[target_row]
        smoothed = (1 - smoothing) * losses + smoothing * spread
        losses = smoothed if unwanted is None else torch.where(unwanted, losses, smoothed)
    return (weight * losses).sum() / weight.sum().clamp(min=1e-9)


def next_loss(
    users: Tensor,  # (batch, dim), unit norm
    candidates: Tensor,  # (candidates, dim), unit norm, each item once
    target_column: Tensor,  # (batch,) index into candidates: one target for each user
    weight: Tensor,  # (batch,)
    temperature: Tensor,
    *,
    log_inclusion: Tensor | None = None,
    correction: str = CORRECTED,
    seen: tuple[Tensor, Tensor] | None = None,  # by row
    smoothing: float = 0.0,
) -> Tensor:
    """``basket_loss`` where each basket is one item, in a third of the time: the logits are never held as a whole."""
    weight = weight / weight.sum().clamp(min=1e-9)
    scaled = users / temperature
    offsets = log_inclusion if correction in (LOGQ, CORRECTED) else None
    target = (scaled * candidates[target_column]).sum(1)
    if offsets is not None and correction == LOGQ:
        target = target - offsets[target_column]
    told = (weight, offsets, target_column, correction == CORRECTED, seen)
    whole = _WeightedLogSumExp.apply(scaled, candidates, told)
    loss = whole - (1 - smoothing) * (weight @ target)
    return loss - smoothing * (weight @ (scaled @ candidates.mean(0))) if smoothing else loss


class _WeightedLogSumExp(torch.autograd.Function):  # type: ignore[misc]
    """The weighted sum over users of the log of the sum of exp(logit); its gradient is found on the way.

    Some rows of logits at a time, which stay in the processor's cache: they are made, turned into probabilities, and
    multiplied with users and candidates for the gradients before the next rows (as in "fused" linear cross-entropies).
    """

    @staticmethod
    def forward(ctx: Any, users: Tensor, candidates: Tensor, told: tuple[Any, ...]) -> Tensor:
        weight, offsets, target, corrected, seen = told
        of_users, of_candidates = torch.empty_like(users), torch.zeros_like(candidates)
        total = weight.new_zeros(())
        for start in range(0, len(users), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            own = (torch.arange(len(users[rows]), device=users.device), target[rows])
            logits = users[rows] @ candidates.T
            kept = logits[own]
            if offsets is not None:
                logits -= offsets
                kept = kept if corrected else logits[own]
            if seen is not None:
                low, high = torch.searchsorted(seen[0], torch.tensor([start, start + len(kept)], device=users.device))
                logits[seen[0][low:high] - start, seen[1][low:high]] = -torch.inf
            logits[own] = kept
            most = logits.amax(1, keepdim=True)
            shares = logits.sub_(most).exp_()
            sums = shares.sum(1, keepdim=True)
            total += weight[rows] @ (sums.log() + most)[:, 0]
            shares *= weight[rows, None] / sums
            of_users[rows] = shares @ candidates
            of_candidates.addmm_(shares.T, users[rows])
        ctx.save_for_backward(of_users, of_candidates)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_users, of_candidates = ctx.saved_tensors
        return of_users * gradients[0], of_candidates * gradients[0], None


def basket_weights(
    target_row: Tensor,
    target_new: Tensor,
    target_kind: Tensor,
    row_weight: Tensor,
    kind_weights: Tensor,
    *,
    repeat_weight: float,
) -> Tensor:
    """The pairs' weights: a basket counts as the root of its size, times its own weight.

    A repeat counts *repeat_weight*, and each pair as much as its type (``kind_weights``, by type code).
    """
    own = torch.where(target_new, 1.0, repeat_weight) * kind_weights[target_kind]
    total = torch.zeros_like(row_weight).index_add_(0, target_row, own)
    return own * (row_weight / total.clamp(min=1e-6).sqrt())[target_row]


def kind_weights(type_weights: Mapping[str, float], *, negative_weight: float) -> Tensor:
    """What a target of each type weighs, by type code; those to stay away from weigh *negative_weight*."""
    weights = dict.fromkeys(TYPE_CODES, 1.0) | dict.fromkeys(NEGATIVE_TYPES, negative_weight) | dict(type_weights)
    return torch.tensor([0.0, *(weights[name] for name in TYPE_CODES)])


def is_unwanted(kinds: Tensor) -> Tensor:
    """Whether each type code is one of a target to stay away from."""
    return torch.isin(kinds, torch.tensor([TYPE_CODES[name] for name in NEGATIVE_TYPES], device=kinds.device))


def recency(time_ms: Tensor, *, newest_ms: int, half_life_days: float) -> Tensor:
    """What an example of *time_ms* weighs: 1 at *newest_ms*, half of it a half-life earlier; always 1 without one."""
    if half_life_days <= 0:
        return torch.ones(len(time_ms))
    age_days = (newest_ms - time_ms) / 86_400_000
    return 0.5 ** (age_days / half_life_days).float()
