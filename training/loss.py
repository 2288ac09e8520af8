"""The loss: a softmax over the catalogue, estimated from the items of the batch and some drawn at random.

Every item of the catalogue is in the batch's candidates with a known probability, its inclusion. Dividing a
negative's share by its inclusion (subtracting log Q from its logit, as in Yi et al., "Sampling-Bias-Corrected Neural
Modeling", RecSys 2019) makes the sum over the sample an unbiased estimate of the sum over the catalogue. A target is
always there, so it is not corrected; the other targets of its basket are not its negatives and are masked.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def inclusion(counts: Tensor, *, draws: int, uniform: int) -> Tensor:
    """The probability that an item is among *draws* purchases and *uniform* items drawn at random, per item."""
    bought = counts.double() / counts.sum().clamp(min=1)
    absent = (1 - bought) ** draws * (1 - 1 / len(counts)) ** uniform
    return (1 - absent).clamp(min=1e-6).float()


def basket_loss(
    users: Tensor,  # (batch, dim), unit norm
    candidates: Tensor,  # (candidates, dim), unit norm, each item once
    target_row: Tensor,  # (pairs,)
    target_column: Tensor,  # (pairs,) index into candidates
    weight: Tensor,  # (pairs,)
    log_inclusion: Tensor,  # (candidates,)
    temperature: Tensor,
) -> Tensor:
    """Mean cross-entropy of the pairs, weighted; each pair's rivals are all candidates outside its own basket."""
    logits = users @ candidates.T / temperature  # (batch, candidates)
    joint = torch.zeros_like(logits, dtype=torch.bool)
    joint[target_row, target_column] = True
    rivals = torch.logsumexp((logits - log_inclusion).masked_fill(joint, -torch.inf), dim=1)  # (batch,)
    target = logits[target_row, target_column]
    return (weight * F.softplus(rivals[target_row] - target)).sum() / weight.sum()


def basket_weights(target_row: Tensor, target_new: Tensor, row_weight: Tensor, *, repeat_weight: float) -> Tensor:
    """The pairs' weights: a basket counts as the root of its size, times its own weight; a repeat counts less."""
    own = torch.where(target_new, 1.0, repeat_weight)
    total = torch.zeros(len(row_weight)).index_add_(0, target_row, own)
    return own * (row_weight / total.clamp(min=1e-6).sqrt())[target_row]


def recency(time_ms: Tensor, *, newest_ms: int, half_life_days: float) -> Tensor:
    """What an example of *time_ms* weighs: 1 at *newest_ms*, half of it a half-life earlier."""
    age_days = (newest_ms - time_ms) / 86_400_000
    return 0.5 ** (age_days / half_life_days).float()
