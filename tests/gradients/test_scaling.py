"""Transforms that rescale, recentre or drop gradients, against float64."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from finegrain.gradients import Centralize, Normalize, Scale, Sign, Zero
from gradients.contract import applied, array, arrays, as_variables, assert_close, order_norm

INF = math.inf
SEEDS = st.integers(0, 2**31)
SPECIAL = np.array([0.0, 2.0, INF, -INF, math.nan])


class TestScale:
    @settings(max_examples=10)
    @given(SEEDS, st.sampled_from([-2.0, -0.3, 0.0, 0.7, 1.0, 1e6]))
    def test_values(self, seed, factor):
        """A product, of either sign."""
        gradients = arrays(seed)
        assert_close(applied(Scale(factor), gradients), [factor * g for g in gradients])

    def test_special_values(self):
        """What is not finite stays so."""
        (result,) = applied(Scale(-2), [SPECIAL])
        np.testing.assert_array_equal(result, [-0.0, -4.0, -INF, INF, math.nan])

    @pytest.mark.parametrize("bad", [math.nan, INF, "2", None, True, 1j])
    def test_bad_factors(self, bad):
        """What is expected and what was received."""
        message = f"`factor` should be a finite number. Received: factor={bad!r}"
        with pytest.raises((ValueError, TypeError), match=re.escape(message)):
            Scale(bad)

    def test_factors_of_numpy(self):
        """Numbers of NumPy are numbers, as they are in rules."""
        assert Scale(np.float32(0.5)).factor == 0.5


class TestZero:
    def test_values(self):
        """Zeros of every rank, also where the gradient is not finite."""
        gradients = [*arrays(1), SPECIAL]
        for result, gradient in zip(applied(Zero(), gradients), gradients, strict=True):
            np.testing.assert_array_equal(result, np.zeros(np.shape(gradient)))


class TestNormalize:
    @pytest.mark.parametrize("order", [1, 2, INF])
    @settings(max_examples=10)
    @given(SEEDS, st.sampled_from([1e-10, 1.0, 1e10]))
    def test_values(self, order, seed, size):
        """Each weight's gradient has norm 1 and its direction, whatever its size."""
        gradients = [np.float32(size) * g for g in arrays(seed)]
        expected = [g.astype("float64") / order_norm(g, order) for g in gradients]
        assert_close(applied(Normalize(order), gradients), expected)

    def test_special_values(self):
        """Zeros stay zeros; NaN stays in sight; what is infinite has no direction."""
        gradients = [np.zeros((2, 2)), np.array(0.0), np.array([math.nan, 1.0]), np.array([INF, 1])]
        results = applied(Normalize(), gradients)
        np.testing.assert_array_equal(results[0], np.zeros((2, 2)))
        np.testing.assert_array_equal(results[1], 0.0)
        np.testing.assert_array_equal(results[2], [math.nan, math.nan])
        np.testing.assert_array_equal(results[3], [math.nan, 0.0])

    @pytest.mark.parametrize("size", [1e-25, 1e25])
    def test_any_size(self, size):
        """Also where the squares are beyond float32."""
        (result,) = applied(Normalize(), [np.array([3.0, -4.0]) * size])
        np.testing.assert_allclose(result, [0.6, -0.8], rtol=1e-5)

    def test_in_half_precision(self):
        """The norm of many numbers may be beyond float16, what it divides is not."""
        gradient = ops.cast(ops.full((40_000,), 600.0), "float16")  # of norm 120,000
        normalized = Normalize()([gradient], as_variables([np.zeros(40_000)]))[0]
        np.testing.assert_allclose(array(normalized), np.full(40_000, 0.005), rtol=1e-2)

    def test_bad_order(self):
        """The message lists what there is."""
        with pytest.raises(ValueError, match=r"`ord` should be 1, 2 or .*Received: ord='fro'"):
            Normalize("fro")


class TestSign:
    def test_values(self):
        """As NumPy has it."""
        gradients = arrays(4)
        for result, gradient in zip(applied(Sign(), gradients), gradients, strict=True):
            np.testing.assert_array_equal(result, np.sign(gradient))

    def test_special_values(self):
        """Zeros have no sign, infinities have."""
        (result,) = applied(Sign(), [np.array([0.0, -0.0, INF, -INF, 1e-30])])
        np.testing.assert_array_equal(result, [0.0, 0.0, 1.0, -1.0, 1.0])

    def test_not_a_number(self):
        """NaN stays in sight, on every backend."""
        (result,) = applied(Sign(), [np.array([math.nan, -2.0])])
        np.testing.assert_array_equal(result, [math.nan, -1.0])


def centred(gradient):
    """Equation 1 of Yong et al.: each unit, an index of the last axis, by itself."""
    if gradient.ndim < 2:
        return gradient
    units = [gradient[..., i] - np.mean(gradient[..., i]) for i in range(gradient.shape[-1])]
    return np.stack(units, axis=-1)


class TestCentralize:
    @settings(max_examples=10)
    @given(SEEDS)
    def test_values(self, seed):
        """Each unit has mean 0; vectors and scalars stay to the last bit."""
        gradients = arrays(seed)
        results = applied(Centralize(), gradients)
        assert_close(results, [centred(g.astype("float64")) for g in gradients])
        for result, gradient in zip(results[:2], gradients[:2], strict=True):
            np.testing.assert_array_equal(result, gradient)

    def test_special_values(self):
        """Zeros stay zeros; NaN stays within its unit, and in sight."""
        gradient = np.array([[0.0, math.nan, 1.0], [0.0, 1.0, 3.0]])
        (result,) = applied(Centralize(), [gradient])
        expected = [[0.0, math.nan, -1.0], [0.0, math.nan, 1.0]]
        np.testing.assert_array_equal(result, expected)

    def test_in_half_precision(self):
        """The mean of many numbers, of which the sum is beyond float16."""
        values = np.where(np.arange(4096)[:, None] % 2, 301.0, 299.0)
        gradient = ops.cast(ops.convert_to_tensor(values), "float16")
        result = Centralize()([gradient], as_variables([np.zeros((4096, 1))]))[0]
        np.testing.assert_allclose(array(result), values - 300.0, atol=0.26)
