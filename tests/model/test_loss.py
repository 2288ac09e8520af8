"""The loss against a direct computation in double precision, pair by pair."""

import math

import pytest
import torch
from torch.nn import functional as F

from nearline.features import TYPE_CODES
from training.loss import basket_loss, basket_weights, inclusion, is_unwanted, kind_weights, or_uniform, recency
from training.recipe import CORRECTED, LOGQ, PLAIN

USERS = F.normalize(torch.tensor([[1.0, 0.2], [-0.3, 1.0]]).double(), dim=1)
ITEMS = F.normalize(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [-1.0, 0.1]]).double(), dim=1)
ROWS, COLUMNS = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])  # user 0 bought items 0 and 1 together, user 1 item 2
TEMPERATURE = torch.tensor(0.2).double()
LOG_Q = torch.tensor([-0.1, -0.7, -1.2, -3.0]).double()
WEIGHTS = torch.tensor([1.0, 0.5, 0.25]).double()


def directly(correction: str, unwanted: tuple[int, ...] = ()) -> float:
    """Each pair's cross-entropy written out; its rivals are the candidates outside its own basket."""
    total = 0.0
    for pair, (row, column) in enumerate(zip(ROWS.tolist(), COLUMNS.tolist(), strict=True)):
        own = {c for r, c in zip(ROWS.tolist(), COLUMNS.tolist(), strict=True) if r == row}
        logit = [float(USERS[row] @ item) / float(TEMPERATURE) for item in ITEMS]
        corrected = logit if correction == PLAIN else [score - float(LOG_Q[c]) for c, score in enumerate(logit)]
        target = corrected[column] if correction == LOGQ else logit[column]
        rivals = sum(math.exp(corrected[c]) for c in range(len(ITEMS)) if c not in own)
        p = math.exp(target) / (math.exp(target) + rivals)
        total += float(WEIGHTS[pair]) * -math.log(1 - p if pair in unwanted else p)
    return total / float(WEIGHTS.sum())


@pytest.mark.parametrize("correction", [PLAIN, LOGQ, CORRECTED])
def test_the_loss_is_the_mean_cross_entropy_with_joint_targets_masked(correction: str) -> None:
    loss = basket_loss(USERS, ITEMS, ROWS, COLUMNS, WEIGHTS, TEMPERATURE, log_inclusion=LOG_Q, correction=correction)
    assert float(loss) == pytest.approx(directly(correction), rel=1e-12)


def test_the_three_corrections_are_three_losses() -> None:
    assert len({round(directly(correction), 6) for correction in (PLAIN, LOGQ, CORRECTED)}) == 3


def test_an_unwanted_target_costs_what_its_probability_is_short_of_none() -> None:
    unwanted = torch.tensor([False, True, False])
    loss = basket_loss(
        USERS, ITEMS, ROWS, COLUMNS, WEIGHTS, TEMPERATURE, log_inclusion=LOG_Q, correction=CORRECTED, unwanted=unwanted
    )
    assert float(loss) == pytest.approx(directly(CORRECTED, unwanted=(1,)), rel=1e-12)


def test_a_batch_that_holds_the_whole_catalogue_is_the_full_softmax() -> None:
    loss = basket_loss(USERS[1:], ITEMS, torch.tensor([0]), torch.tensor([2]), torch.ones(1).double(), TEMPERATURE)
    torch.testing.assert_close(loss, F.cross_entropy(USERS[1:] @ ITEMS.T / TEMPERATURE, torch.tensor([2])))


def test_the_corrected_gradient_is_the_published_one() -> None:
    """arXiv 2507.09331: the probability of being wrong, held still, times the gradient of target against rivals."""
    users = USERS.clone().requires_grad_()
    basket_loss(users, ITEMS, ROWS, COLUMNS, WEIGHTS, TEMPERATURE, log_inclusion=LOG_Q).backward()
    again = USERS.clone().requires_grad_()
    logits = again @ ITEMS.T / TEMPERATURE
    joint = torch.tensor([[True, True, False, False], [False, False, True, False]])
    rivals = torch.logsumexp((logits - LOG_Q).masked_fill(joint, -torch.inf), dim=1)[ROWS]
    target = logits[ROWS, COLUMNS]
    wrong = 1 - torch.sigmoid((target - rivals).detach())
    (-(WEIGHTS * wrong * (target - rivals)).sum() / WEIGHTS.sum()).backward()
    torch.testing.assert_close(users.grad, again.grad)


def test_corrected_samples_estimate_the_sum_over_the_catalogue_without_bias() -> None:
    """Mean over many samples of sum(exp(logit) / inclusion) = the sum over all items, within the error of the mean."""
    draw = torch.Generator().manual_seed(3)
    counts = torch.tensor([50, 30, 10, 5, 3, 1, 1, 0, 0, 0])
    shares = torch.rand(10, generator=draw).exp()
    chances = inclusion(counts, draws=6, items=10, uniform=3)
    estimates = []
    for _ in range(4000):
        bought = torch.multinomial(counts.float(), 6, replacement=True, generator=draw)
        drawn = torch.cat([bought, torch.randint(10, (3,), generator=draw)]).unique()
        estimates.append(float((shares[drawn] / chances[drawn]).sum()))
    mean, error = torch.tensor(estimates).mean(), torch.tensor(estimates).std() / math.sqrt(4000)
    assert abs(mean - shares.sum()) < 4 * error


def test_inclusion_is_a_probability_and_popular_items_are_likelier() -> None:
    chances = inclusion(torch.tensor([8, 2, 0]), draws=2, items=3, uniform=1)
    torch.testing.assert_close(chances, torch.tensor([1 - 0.2**2 * 2 / 3, 1 - 0.8**2 * 2 / 3, 1 / 3]))
    torch.testing.assert_close(or_uniform(torch.tensor([0.5, 0.0]), items=4, uniform=1), torch.tensor([0.625, 0.25]))


def test_a_basket_weighs_the_root_of_its_size_and_a_repeat_less() -> None:
    rows, kinds = torch.tensor([0, 0, 0, 0, 1]), torch.full((5,), TYPE_CODES["purchase"])
    even = kind_weights({}, negative_weight=1)
    new = torch.ones(5, dtype=torch.bool)
    weights = basket_weights(rows, new, kinds, torch.tensor([1.0, 0.5]), even, repeat_weight=0.3)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5]))
    new = torch.tensor([True, False, False, False, True])
    weights = basket_weights(rows, new, kinds, torch.ones(2), even, repeat_weight=0.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 0, 0, 0, 1]))


def test_a_target_weighs_what_its_type_says() -> None:
    rows = torch.tensor([0, 1])
    kinds = torch.tensor([TYPE_CODES["view"], TYPE_CODES["skip"]])
    weights = basket_weights(
        rows,
        torch.ones(2, dtype=torch.bool),
        kinds,
        torch.ones(2),
        kind_weights({"view": 0.25}, negative_weight=4),
        repeat_weight=1,
    )
    torch.testing.assert_close(weights, torch.tensor([0.5, 2.0]))  # own / sqrt(the basket's own)
    assert is_unwanted(kinds).tolist() == [False, True]


def test_an_example_of_one_half_life_ago_weighs_half() -> None:
    day = 86_400_000
    times = torch.tensor([100 * day, 70 * day, 40 * day])
    torch.testing.assert_close(recency(times, newest_ms=100 * day, half_life_days=30), torch.tensor([1.0, 0.5, 0.25]))
    assert recency(times, newest_ms=100 * day, half_life_days=0).tolist() == [1, 1, 1]
