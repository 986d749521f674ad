"""Transforms that draw random numbers: their laws, and that a seed settles them."""

import math
import re

import keras
import numpy as np
import pytest
from keras import ops

import drawn
import finegrain as fg
from finegrain.gradients import Dropout, Noise
from finegrain.gradients.transform import transformed
from gradients.contract import applied, array, as_variables

SIZE = 40_000
MANY = np.zeros(SIZE, "float32")


def several(transform, gradients, steps):
    """What `transform` makes of the same gradients in each of `steps`: (steps, weights, size)."""
    variables = as_variables(gradients)
    bound = transform.bound_to(variables)
    given = [ops.convert_to_tensor(gradient) for gradient in gradients]
    return np.array(
        [[array(r) for r in transformed(bound, given, variables)] for _ in range(steps)]
    )


def assert_independent(samples):
    """The correlations between all of `samples` are those of chance, within five deviations."""
    correlations = np.corrcoef(samples) - np.eye(len(samples))
    assert np.abs(correlations).max() < 5 / math.sqrt(SIZE)


class TestNoise:
    @pytest.mark.parametrize(("stddev", "decay"), [(0.5, 0.55), (2.0, 1.0), (1.0, 0.0)])
    def test_variance(self, stddev, decay):
        """The variance at step t is σ² / (1 + t)^γ, and the mean is 0."""
        noise = several(Noise(stddev, decay, seed=drawn.seed(3)), [MANY], steps=4)[:, 0]
        expected = stddev**2 / (1.0 + np.arange(4)) ** decay
        # Five standard deviations of a sample's variance and mean.
        np.testing.assert_allclose(noise.var(axis=1), expected, rtol=5 * math.sqrt(2 / SIZE))
        assert (np.abs(noise.mean(axis=1)) < 5 * np.sqrt(expected / SIZE)).all()

    def test_law(self):
        """It is a normal law: the shares within one and two deviations."""
        noise = several(Noise(1.0, seed=drawn.seed(3)), [MANY], steps=1)[0, 0]
        for bound, share in [(1, 0.6827), (2, 0.9545), (3, 0.9973)]:
            assert abs(np.mean(np.abs(noise) < bound) - share) < 0.012

    def test_weights_and_steps_are_independent(self):
        """Weights of one shape, and steps, get noise of their own."""
        samples = several(Noise(1.0, seed=drawn.seed(3)), [MANY, MANY], steps=2)
        assert_independent(samples.reshape(4, SIZE))

    def test_it_is_added(self):
        """What is left without the gradient does not depend on it."""
        gradient = np.linspace(-4, 4, 12, dtype="float32").reshape(3, 4)
        (noisy,) = applied(Noise(0.5, seed=drawn.seed(3)), [gradient])
        (noise,) = applied(Noise(0.5, seed=drawn.seed(3)), [np.zeros((3, 4))])
        np.testing.assert_allclose(noisy - gradient, noise, atol=1e-6)

    def test_no_noise(self):
        """A deviation of 0 changes nothing."""
        gradient = np.array([1.0, -2.0])
        np.testing.assert_array_equal(applied(Noise(0.0), [gradient])[0], gradient)

    def test_special_values(self):
        """What is not finite stays so."""
        (result,) = applied(Noise(0.5, seed=drawn.seed(3)), [np.array([math.inf, math.nan])])
        assert result[0] == math.inf
        assert np.isnan(result[1])


class TestDropout:
    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
    def test_share_and_rescaling(self, rate):
        """A share of `rate` is dropped, and the mean is kept."""
        (result,) = applied(Dropout(rate, seed=drawn.seed(3)), [np.full(SIZE, 3.0)])
        dropped = result == 0
        assert abs(dropped.mean() - rate) < 5 * math.sqrt(rate * (1 - rate) / SIZE)
        np.testing.assert_allclose(result[~dropped], 3.0 / (1 - rate), rtol=1e-6)

    def test_components_weights_and_steps_are_independent(self):
        """Each component is dropped by itself."""
        samples = several(Dropout(0.5, seed=drawn.seed(3)), [np.ones(SIZE)] * 2, steps=2).reshape(
            4, SIZE
        )
        assert_independent(samples)
        assert_independent(np.array([samples[0], np.roll(samples[0], 1)]))

    def test_no_dropout(self):
        """A rate of 0 changes nothing."""
        gradient = np.array([1.0, -2.0, 0.0])
        np.testing.assert_array_equal(applied(Dropout(0.0), [gradient])[0], gradient)

    def test_what_is_dropped_is_zero(self):
        """Also where it is not finite; what is kept stays in sight."""
        (result,) = applied(Dropout(0.5, seed=drawn.seed(3)), [np.full(100, math.nan)])
        assert 20 < np.isnan(result).sum() < 80
        assert (result[~np.isnan(result)] == 0).all()


@pytest.mark.parametrize("make", [lambda s: Noise(1.0, seed=s), lambda s: Dropout(0.5, seed=s)])
class TestSeeds:
    def test_the_same_seed_is_the_same_run(self, make):
        """Whatever else draws numbers; another seed, and none, are other runs."""
        runs = []
        for seed in (1, 1, 2, None, None):
            keras.random.normal((3,))
            runs.append(several(make(seed), [np.ones(50)], steps=3))
        np.testing.assert_array_equal(runs[0], runs[1])
        for one in range(1, 5):
            for other in range(one):
                assert one == 1 or not np.array_equal(runs[one], runs[other])

    @pytest.mark.parametrize("bad", [-1, 1.0, "1", True])
    def test_bad_seeds(self, make, bad):
        """What is expected and what was received."""
        message = f"`seed` should be an integer >= 0 or None. Received: seed={bad!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            make(bad)

    def test_no_seed_resumes_too(self, make):
        """A run without a seed goes on from its state: the numbers are in `variables`."""
        runs = []
        optimizers = [
            fg.PerWeight(keras.optimizers.SGD(1.0), [fg.Rule("w", gradient=make(None))])
            for _ in range(2)
        ]
        weights = [as_variables([np.zeros(50)]) for _ in range(2)]
        for optimizer, variables in zip(optimizers, weights, strict=True):
            optimizer.apply([ops.ones(50)], variables)
        store = {}
        optimizers[0].save_own_variables(store)
        optimizers[1].load_own_variables(store)
        for optimizer, variables in zip(optimizers, weights, strict=True):
            variables[0].assign(np.zeros(50))
            optimizer.apply([ops.ones(50)], variables)
            runs.append(array(variables[0]))
        np.testing.assert_array_equal(*runs)


class TestArguments:
    @pytest.mark.parametrize("argument", ["stddev", "decay"])
    @pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, "1", None])
    def test_noise(self, argument, bad):
        """A finite number ≥ 0; the message has the argument's name and value."""
        message = f"`{argument}` should be a finite number >= 0. Received: {argument}={bad!r}"
        with pytest.raises((ValueError, TypeError), match=re.escape(message)):
            Noise(**({"stddev": 1.0} | {argument: bad}))

    @pytest.mark.parametrize("bad", [-0.1, 1.0, 2, math.nan, "1", None])
    def test_dropout(self, bad):
        """A share, but not all."""
        with pytest.raises((ValueError, TypeError), match=r"`rate` should be .*Received: rate="):
            Dropout(bad)

    def test_seeds_of_numpy(self):
        """An integer of NumPy is an integer."""
        assert Noise(1.0, seed=np.int64(3)).seed == 3
