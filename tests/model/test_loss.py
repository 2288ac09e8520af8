"""The loss against a direct computation, pair by pair."""

import math

import pytest
import torch
from torch.nn import functional as F

from training.loss import basket_loss, basket_weights, inclusion, recency

USERS = F.normalize(torch.tensor([[1.0, 0.2], [-0.3, 1.0]]), dim=1)
ITEMS = F.normalize(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [-1.0, 0.1]]), dim=1)
ROWS, COLUMNS = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])  # user 0 bought items 0 and 1 together, user 1 item 2
TEMPERATURE = torch.tensor(0.2)


def directly(log_inclusion: list[float], weights: list[float]) -> float:
    """Each pair's cross-entropy written out; its rivals are the candidates outside its own basket."""
    total = 0.0
    for row, column, weight in zip(ROWS.tolist(), COLUMNS.tolist(), weights, strict=True):
        own = {c for r, c in zip(ROWS.tolist(), COLUMNS.tolist(), strict=True) if r == row}
        logit = [float(USERS[row] @ item) / float(TEMPERATURE) for item in ITEMS]
        rivals = sum(math.exp(logit[c] - log_inclusion[c]) for c in range(len(ITEMS)) if c not in own)
        total += weight * -math.log(math.exp(logit[column]) / (math.exp(logit[column]) + rivals))
    return total / sum(weights)


def test_the_loss_is_the_mean_cross_entropy_with_joint_targets_masked_and_negatives_corrected() -> None:
    log_inclusion, weights = [-0.1, -0.7, -1.2, -3.0], [1.0, 0.5, 0.25]
    loss = basket_loss(USERS, ITEMS, ROWS, COLUMNS, torch.tensor(weights), torch.tensor(log_inclusion), TEMPERATURE)
    assert float(loss) == pytest.approx(directly(log_inclusion, weights), rel=1e-5)


def test_a_batch_that_holds_the_whole_catalogue_needs_no_correction() -> None:
    certain = torch.zeros(4)
    loss = basket_loss(USERS[1:], ITEMS, torch.tensor([0]), torch.tensor([2]), torch.ones(1), certain, TEMPERATURE)
    softmax = F.cross_entropy(USERS[1:] @ ITEMS.T / TEMPERATURE, torch.tensor([2]))
    torch.testing.assert_close(loss, softmax)


def test_corrected_samples_estimate_the_sum_over_the_catalogue_without_bias() -> None:
    """Mean over many samples of sum(exp(logit) / inclusion) = the sum over all items, within the error of the mean."""
    draw = torch.Generator().manual_seed(3)
    counts = torch.tensor([50, 30, 10, 5, 3, 1, 1, 0, 0, 0])
    shares = torch.rand(10, generator=draw).exp()
    chances = inclusion(counts, draws=6, uniform=3)
    estimates = []
    for _ in range(4000):
        bought = torch.multinomial(counts.float(), 6, replacement=True, generator=draw)
        drawn = torch.cat([bought, torch.randint(10, (3,), generator=draw)]).unique()
        estimates.append(float((shares[drawn] / chances[drawn]).sum()))
    mean, error = torch.tensor(estimates).mean(), torch.tensor(estimates).std() / math.sqrt(4000)
    assert abs(mean - shares.sum()) < 4 * error


def test_inclusion_is_a_probability_and_popular_items_are_likelier() -> None:
    chances = inclusion(torch.tensor([8, 2, 0]), draws=2, uniform=1)
    torch.testing.assert_close(chances, torch.tensor([1 - 0.2**2 * 2 / 3, 1 - 0.8**2 * 2 / 3, 1 / 3]))


def test_a_basket_weighs_the_root_of_its_size_and_a_repeat_less() -> None:
    rows = torch.tensor([0, 0, 0, 0, 1])
    weights = basket_weights(rows, torch.ones(5, dtype=torch.bool), torch.tensor([1.0, 0.5]), repeat_weight=0.3)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5]))
    new = torch.tensor([True, False, False, False, True])
    weights = basket_weights(rows, new, torch.ones(2), repeat_weight=0.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 0, 0, 0, 1]))


def test_an_example_of_one_half_life_ago_weighs_half() -> None:
    day = 86_400_000
    weights = recency(torch.tensor([100 * day, 70 * day, 40 * day]), newest_ms=100 * day, half_life_days=30)
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.5, 0.25]))
