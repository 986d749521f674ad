"""The oracle itself, held against hand-worked numbers, finite differences and its own twin."""

import numpy as np
import pytest

import drawn
from oracle import EnumeratedChain, finite_differences, forward_backward

pytestmark = pytest.mark.one_backend

MASKS = [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_scores_by_hand():
    """Three tags over a hole: start 1, emissions 2 and 3, the transition into position 2, end 5."""
    emissions = [[2.0, 0.0], [np.nan, np.nan], [0.0, 3.0]]
    transitions = [[[100.0, 100.0], [100.0, 100.0]], [[0.0, 4.0], [0.0, 0.0]]]
    chain = EnumeratedChain(emissions, transitions, [1.0, 0.0], [0.0, 5.0], [True, False, True])
    assert chain.score([0, -100, 1]) == 1 + 2 + 3 + 4 + 5
    sums = np.array([[1 + 2, 15], [0, 3 + 5]])  # rows: first tag, columns: last tag
    assert chain.log_partition() == pytest.approx(np.log(np.exp(sums).sum()))
    assert chain.best_score() == 15


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", [(3, 3), (3, 3, 3)])
def test_gradients_are_those_of_finite_differences(mask, shape):
    """Expected counts are what the log-probability's difference quotients say."""
    random = drawn.generator(0)
    parts = [random.normal(size=size) for size in [(4, 3), shape, 3, 3]]
    tags = random.integers(0, 3, 4)

    def log_prob(*parts):
        return EnumeratedChain(*parts, mask=mask).log_prob(tags)

    counts = EnumeratedChain(*parts, mask=mask).log_prob_gradient(tags)
    for ours, quotient in zip(counts, finite_differences(log_prob, *parts), strict=True):
        np.testing.assert_allclose(ours, quotient, atol=1e-8)


def test_recurrence_is_the_enumeration():
    """The float64 recurrence for long chains agrees with the list of all sequences."""
    random = drawn.generator(1)
    parts = [random.normal(size=size) for size in [(6, 3), (3, 3), 3, 3]]
    total, counts = forward_backward(*parts)
    chain = EnumeratedChain(*parts)
    assert total == pytest.approx(chain.log_partition(), abs=1e-12)
    for ours, theirs in zip(counts, chain.expected_counts(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
