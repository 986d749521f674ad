"""The log-sum-exp under the recursions: right at both infinities."""

import numpy as np
import pytest
from keras import ops

from crf.autodiff import gradients
from finegrain.crf.kernels.log_space import log_sum_exp


@pytest.mark.parametrize("axis", [0, 1])
def test_values(axis):
    """Sums of the order of e^±1000, of one finite term, and of none."""
    infinity = np.inf
    x = np.array([[1000, 1000], [-1000, -1001], [-infinity, 3], [-infinity, -infinity]], "float32")
    expected = np.array([1000 + np.log(2), -1000 + np.log1p(np.exp(-1)), 3, -infinity])
    x = x if axis == 1 else x.T
    result = ops.convert_to_numpy(log_sum_exp(ops.convert_to_tensor(x), axis))
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def second_power(parts, fixed):
    return ops.sum(ops.square(log_sum_exp(parts["x"], 1)) * fixed["weights"])


def test_gradient():
    """The gradient is a softmax; zero where every term is −inf."""
    x = np.array([[0, np.log(3)], [-np.inf, 2], [-np.inf, -np.inf]], "float32")
    weights = np.array([1, 1, 0], "float32")  # −inf squared is none of our business
    found = gradients(second_power, {"x": x[:2]}, {"weights": weights[:2]})["x"]
    expected = 2 * np.array([[np.log(4)], [2]]) * [[0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def plain_sum(parts, fixed):
    values = log_sum_exp(parts["x"], 1)
    return ops.sum(ops.where(fixed["counted"], values, ops.zeros_like(values)))


@pytest.mark.parametrize("counted", [True, False])
def test_gradient_of_nothing(counted):
    """A sum of no terms has gradient zero, never NaN."""
    x = np.full((1, 3), -np.inf, "float32")
    found = gradients(plain_sum, {"x": x}, {"counted": np.array([counted])})["x"]
    np.testing.assert_array_equal(found, np.zeros((1, 3)))
