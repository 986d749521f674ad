"""Norms of gradients."""

import numpy as np
import pytest
from keras import ops

from finegrain.gradients.norms import checked_order, config_order, joint_norm, norm, unit_axes
from gradients.contract import array, arrays, order_norm

INF = float("inf")


@pytest.mark.parametrize("order", [1, 2, INF])
def test_norm(order):
    """Over everything, at every rank."""
    for values in arrays(5):
        expected = order_norm(values, order)
        np.testing.assert_allclose(
            array(norm(ops.convert_to_tensor(values), order)), expected, 1e-6
        )


@pytest.mark.parametrize("order", [1, 2, INF])
def test_joint_norm(order):
    """All tensors are one long vector."""
    values = arrays(5)
    together = np.concatenate([np.ravel(value) for value in values])
    result = joint_norm([ops.convert_to_tensor(value) for value in values], order)
    np.testing.assert_allclose(array(result), order_norm(together, order), 1e-6)


@pytest.mark.parametrize(("order", "expected"), [(1, 200.0), (2, 2.0), (INF, 0.02)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_floats(order, expected, dtype):
    """10,000 numbers of which neither sum nor squares would come out right in 16 bits."""
    values = ops.cast(ops.full((10_000,), 0.02), dtype)
    expected *= float(array(values)[0]) / 0.02
    np.testing.assert_allclose(array(norm(values, order)), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("order", "config"),
    [(1, 1), (2, 2), (1.0, 1), (2.0, 2), (INF, "inf"), (np.inf, "inf"), ("inf", "inf")],
)
def test_orders(order, config):
    """Orders are 1, 2 and infinity, and come back from a config."""
    assert config_order(checked_order(order)) == config
    assert checked_order(config) == checked_order(order)


@pytest.mark.parametrize("bad", [0, 3, -1, True, None, "2", "fro", [1], float("nan"), -INF])
def test_bad_orders(bad):
    """What is expected and what was received."""
    with pytest.raises(ValueError, match=r"should be 1, 2 or float\('inf'\)\. Received: ord=") as e:
        checked_order(bad)
    assert repr(bad) in str(e.value)


def test_unit_axes():
    """A unit is one index of the last axis; a vector or scalar is one unit."""
    assert [unit_axes(rank) for rank in range(5)] == [(), (0,), (0,), (0, 1), (0, 1, 2)]
