"""Where the loss is lowest, and whether it fell at all."""

import numpy as np
import pytest

import drawn
from finegrain.range_test.result import has_diverged, has_fallen, limit, smoothed

pytestmark = pytest.mark.one_backend

RATES = np.geomspace(1e-7, 10, 200)


def noise(*key):
    return drawn.generator(*key).normal(size=200)


@pytest.mark.parametrize("width", [0.1, 0.5])
def test_smoothing_is_a_mean_over_neighbours(width):
    """Weighted by a Gaussian of the distance in decades, whatever the spacing."""
    rates = np.sort(10 ** drawn.generator(1).uniform(-3, 0, 7))
    losses = drawn.generator(2).uniform(size=7)
    expected = []
    for rate in rates:
        weights = [np.exp(-((np.log10(rate) - np.log10(r)) ** 2) / (2 * width**2)) for r in rates]
        expected.append(np.average(losses, weights=weights))
    np.testing.assert_allclose(smoothed(rates, losses, width, np.inf), expected, rtol=1e-12)


def test_no_smoothing():
    losses = np.array([1.0, np.nan, 5.0])
    np.testing.assert_array_equal(smoothed(RATES[:3], losses, 0.0, 4.0), [1.0, 4.0, 4.0])


def test_what_comes_after_divergence_does_not_hide_the_valley():
    losses = np.where(RATES < 1, 1 - 0.5 * np.exp(-(np.log10(RATES / 0.1) ** 2)), 1e9)[:180]
    curve = smoothed(RATES[:180], losses, 0.3, limit(losses, 3.0))
    assert 0.05 < RATES[np.argmin(curve)] < 0.15


@pytest.mark.parametrize("shift", [0.0, -100.0])
def test_divergence_is_measured_by_what_was_gained(shift):
    """Also for losses that are negative, as log-likelihoods of densities are."""
    falling = [1.0 - 0.01 * step + shift for step in range(80)]
    assert not any(has_diverged(falling[: n + 1], 3.0) for n in range(80))
    bound = limit(falling, 3.0)
    assert bound > falling[0] + 1.0
    risen = [*falling, *[bound + 50.0 + abs(shift) * 5] * 40]
    assert has_diverged(risen, 3.0)


def test_a_loss_that_is_not_finite_is_divergence():
    assert has_diverged([1.0, np.nan], 3.0)
    assert has_diverged([1.0, np.inf], 3.0)
    assert not has_diverged([1.0, 1e9], 3.0)  # the first losses are no level yet


def test_noise_is_no_divergence():
    losses = list(np.exp(0.5 * noise(3)))
    assert not any(has_diverged(losses[: n + 1], 3.0) for n in range(200))


@pytest.mark.parametrize("size", [0.0, 0.01, 0.3])
def test_noise_is_no_fall(size):
    """A valley that is deeper than the noise of its average is one."""
    losses = 2.0 + size * noise(4)
    assert not has_fallen(RATES, losses, smoothed(RATES, losses, 0.3, np.inf), 0.3)
    losses = losses - 0.5 * np.exp(-np.square(np.log10(RATES / 0.1)))
    assert has_fallen(RATES, losses, smoothed(RATES, losses, 0.3, np.inf), 0.3)
