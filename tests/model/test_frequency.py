"""How often an item is in a batch, learnt from the stream alone."""

import numpy as np
import pytest

from training.frequency import StreamingFrequency


def stream(frequency: StreamingFrequency, chances: np.ndarray, batches: int, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for _ in range(batches):
        frequency.seen(np.flatnonzero(random.random(len(chances)) < chances))


def test_the_estimate_comes_to_each_items_true_inclusion() -> None:
    chances = np.array([0.9, 0.5, 0.2, 0.05])
    frequency = StreamingFrequency(rate=0.02)
    stream(frequency, chances, 6000)
    np.testing.assert_allclose(frequency.inclusion(np.arange(4)), chances, rtol=0.25)


def test_it_follows_a_stream_that_changes() -> None:
    frequency = StreamingFrequency(rate=0.05)
    stream(frequency, np.array([0.05, 0.5]), 2000)
    stream(frequency, np.array([0.5, 0.5]), 500)
    assert frequency.inclusion(np.array([0]))[0] == pytest.approx(0.5, rel=0.4)


def test_a_collision_in_one_table_does_not_count() -> None:
    """40 items in 32 buckets: some rare item shares its bucket with a common one, but hardly in four tables at once."""
    chances = np.concatenate([np.full(20, 0.9), np.full(20, 0.02)])
    one, four = StreamingFrequency(buckets=32, tables=1), StreamingFrequency(buckets=32, tables=4)
    for frequency in (one, four):
        stream(frequency, chances, 2000)
    rare = np.arange(20, 40)
    assert one.inclusion(rare).max() > 0.5
    assert four.inclusion(rare).mean() < one.inclusion(rare).mean() / 2


def test_a_restored_estimate_goes_on_as_if_nothing_had_happened() -> None:
    chances = np.array([0.7, 0.1])
    whole, first, second = StreamingFrequency(), StreamingFrequency(), StreamingFrequency()
    stream(whole, chances, 100)
    stream(whole, chances, 100, seed=1)
    stream(first, chances, 100)
    second.restore(first.state())
    stream(second, chances, 100, seed=1)
    np.testing.assert_array_equal(whole.inclusion(np.arange(2)), second.inclusion(np.arange(2)))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="rate 0"):
        StreamingFrequency(rate=0)
