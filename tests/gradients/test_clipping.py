"""Transforms that bound gradients, against float64, torch and optax."""

import math
import re

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import drawn
from finegrain.gradients import AdaptiveClip, ClipNorm, ClipValue
from gradients.contract import (
    SHAPES,
    applied,
    array,
    arrays,
    as_variables,
    assert_close,
    order_norm,
)

INF = math.inf
SEEDS = st.integers(0, 2**31)
LIMITS = st.sampled_from([0.01, 0.5, 1.0, 3.0, 100.0])
every_order = pytest.mark.parametrize("order", [1, 2, INF])
torch_is_here = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch is imported under its own backend only"
)


class TestClipValue:
    @settings(max_examples=10)
    @given(SEEDS, LIMITS)
    def test_values(self, seed, limit):
        """As NumPy clips."""
        gradients = arrays(seed)
        assert_close(
            applied(ClipValue(limit), gradients), [np.clip(g, -limit, limit) for g in gradients]
        )

    def test_special_values(self):
        """Infinite gradients are bounded, NaN stays in sight, zeros stay."""
        (result,) = applied(ClipValue(0.5), [np.array([INF, -INF, math.nan, 0.0, 0.5, -0.25])])
        np.testing.assert_array_equal(result, np.float32([0.5, -0.5, math.nan, 0.0, 0.5, -0.25]))


class TestClipNorm:
    @every_order
    @settings(max_examples=10)
    @given(SEEDS, LIMITS)
    def test_per_weight(self, order, seed, limit):
        """Each gradient is scaled by min(1, c / norm)."""
        gradients = arrays(seed)
        assert_close(
            applied(ClipNorm(limit, ord=order), gradients),
            [g * min(1.0, limit / order_norm(g, order)) for g in gradients],
        )

    @every_order
    @settings(max_examples=10)
    @given(SEEDS, LIMITS)
    def test_per_rule(self, order, seed, limit):
        """All gradients of the rule are scaled alike, by the norm of all of them."""
        gradients = arrays(seed)
        size = order_norm(np.concatenate([np.ravel(g) for g in gradients]), order)
        assert_close(
            applied(ClipNorm(limit, ord=order, per="rule"), gradients),
            [g * min(1.0, limit / size) for g in gradients],
        )

    @torch_is_here
    @every_order
    @pytest.mark.parametrize("per", ["weight", "rule"])
    @pytest.mark.parametrize("limit", [0.5, 1000.0])
    def test_as_torch_clips(self, order, per, limit):
        """`torch.nn.utils.clip_grad_norm_`, whose divisor is larger by 1e-6."""
        import torch

        gradients = arrays(3)
        parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        for clipped in [parameters] if per == "rule" else [[p] for p in parameters]:
            torch.nn.utils.clip_grad_norm_(clipped, limit, norm_type=order)
        results = applied(ClipNorm(limit, ord=order, per=per), gradients)
        assert_close(results, [parameter.grad.numpy() for parameter in parameters])

    @pytest.mark.parametrize(
        ("order", "per_weight", "per_rule"),
        [
            (1, [[1.5, -2.0], [3.5]], [[1.05, -1.4], [1.05]]),
            (2, [[2.1, -2.8], [3.5]], [[2.1, -2.8], [2.1]]),
            (INF, [[2.625, -3.5], [3.5]], [[2.625, -3.5], [2.625]]),
        ],
    )
    def test_by_hand(self, order, per_weight, per_rule):
        """Gradients (3, −4) and 3 or 4, bounded by 3.5."""
        gradients = [np.array([3.0, -4.0]), np.array([4.0])]
        assert_close(applied(ClipNorm(3.5, ord=order), gradients), per_weight)
        if order == 1:
            gradients[1] = np.array([3.0])
            expected = per_rule
        else:
            gradients[1] = np.array([3.0])
            size = {2: math.sqrt(34.0), INF: 4.0}[order]
            expected = [[3 * 3.5 / size, -4 * 3.5 / size], [3 * 3.5 / size]]
        assert_close(applied(ClipNorm(3.5, ord=order, per="rule"), gradients), expected)

    @every_order
    @pytest.mark.parametrize("per", ["weight", "rule"])
    def test_what_is_small_enough_stays(self, order, per):
        """To the last bit, also at the bound itself and at zero."""
        gradients = [np.array([0.0, 0.1, 0.0]), np.array(0.0), np.zeros((2, 2))]
        transform = ClipNorm(float(np.float32(0.1)), ord=order, per=per)
        for result, gradient in zip(applied(transform, gradients), gradients, strict=True):
            np.testing.assert_array_equal(result, np.float32(gradient))

    @every_order
    def test_not_a_number(self, order):
        """NaN is spread over what has one norm, so that it cannot be overlooked."""
        gradients = [np.array([math.nan, 1.0]), np.array([1.0])]
        first, second = applied(ClipNorm(2.0, ord=order), gradients)
        assert np.isnan(first).all()
        np.testing.assert_array_equal(second, [1.0])
        for result in applied(ClipNorm(2.0, ord=order, per="rule"), gradients):
            assert np.isnan(result).all()

    @every_order
    def test_infinite(self, order):
        """An infinite component has no direction: NaN there, as torch and Keras have it."""
        (result,) = applied(ClipNorm(2.0, ord=order), [np.array([INF, 1.0])])
        np.testing.assert_array_equal(result, [math.nan, 0.0])

    @pytest.mark.parametrize("order", [1, INF])
    def test_large_gradients(self, order):
        """A norm that float32 holds is a norm."""
        (result,) = applied(ClipNorm(1.0, ord=order), [np.array([3e30, -1e30])])
        expected = np.array([3.0, -1.0]) / {1: 4.0, INF: 3.0}[order]
        np.testing.assert_allclose(result, expected, rtol=1e-6)

    @pytest.mark.parametrize("transform", [ClipNorm(1.0), ClipNorm(1.0, per="rule")], ids=str)
    def test_large_gradients_in_the_euclidean_norm(self, transform):
        """An exploded, finite gradient is cut to the bound, not to nothing."""
        (result,) = applied(transform, [np.array([3e25, -4e25])])
        np.testing.assert_allclose(result, [0.6, -0.8], rtol=1e-6)

    def test_in_half_precision(self):
        """The norm of many numbers may be beyond float16, the clipped ones are not."""
        gradient = ops.cast(ops.full((40_000,), 600.0), "float16")
        clipped = ClipNorm(1200.0)([gradient], as_variables([np.zeros(40_000)]))[0]
        np.testing.assert_allclose(array(clipped), np.full(40_000, 6.0), rtol=1e-3)


def adaptively_clipped(weight, gradient, ratio, epsilon=1e-3):
    """Equation 3 of Brock et al., unit by unit."""
    if gradient.ndim < 2:
        largest = ratio * max(math.sqrt(float(np.sum(weight**2))), epsilon)
        size = math.sqrt(float(np.sum(gradient**2)))
        return gradient * largest / size if size > largest else gradient
    columns = [
        adaptively_clipped(np.ravel(weight[..., i]), np.ravel(gradient[..., i]), ratio, epsilon)
        for i in range(gradient.shape[-1])
    ]
    return np.stack([column.reshape(gradient.shape[:-1]) for column in columns], axis=-1)


class TestAdaptiveClip:
    @settings(max_examples=10)
    @given(SEEDS, st.sampled_from([0.01, 0.16, 1.0, 10.0]), st.sampled_from([1e-3, 1.0, 5.0]))
    def test_values(self, seed, ratio, epsilon):
        """Every unit by itself, at every rank."""
        weights = [w.astype("float64") for w in arrays(seed)]
        gradients = [g.astype("float64") for g in arrays(seed + 1)]
        expected = [
            adaptively_clipped(w, g, ratio, epsilon)
            for w, g in zip(weights, gradients, strict=True)
        ]
        assert_close(applied(AdaptiveClip(ratio, epsilon), gradients, weights), expected)

    @pytest.mark.full
    def test_layers(self):
        """A dense kernel, a convolution's kernel, and both biases."""
        convolution, dense = keras.layers.Conv2D(3, 2), keras.layers.Dense(4)
        convolution.build((None, 8, 8, 2))
        dense.build((None, 5))
        weights = [array(v) for layer in (convolution, dense) for v in layer.weights]
        random = drawn.generator(2)
        gradients = [random.normal(size=w.shape) * 0.1 for w in weights]
        results = applied(AdaptiveClip(0.16), gradients, weights)
        assert_close(
            results,
            [adaptively_clipped(w, g, 0.16) for w, g in zip(weights, gradients, strict=True)],
        )
        # Of the kernels some units were clipped; the biases are 0 and may move by 0.16 · ε.
        for index in (1, 3):
            size = np.linalg.norm(results[index])
            np.testing.assert_allclose(size, 0.16 * 1e-3, rtol=1e-5)

    def test_as_optax_clips(self):
        """`optax.adaptive_grad_clip` has the same units for dense and 2D convolution kernels."""
        optax = pytest.importorskip("optax")
        shapes = [(3,), (5, 4), (2, 2, 4, 3)]
        weights, gradients = arrays(1, shapes), arrays(2, shapes)
        clip = optax.adaptive_grad_clip(0.5)
        expected, _ = clip.update(gradients, clip.init(weights), weights)
        results = applied(AdaptiveClip(0.5), gradients, weights)
        assert_close(results, [np.asarray(each) for each in expected])
        assert not np.allclose(results[1], gradients[1])

    def test_by_hand(self):
        """Units (3, 4) and (0, 0): the second may move by ratio · epsilon."""
        weight = np.array([[3.0, 0.0], [4.0, 0.0]])
        gradient = np.array([[0.6, 3.0], [0.8, 4.0]])
        (result,) = applied(AdaptiveClip(0.1, epsilon=0.5), [gradient], [weight])
        np.testing.assert_allclose(result, [[0.3, 0.03], [0.4, 0.04]], rtol=1e-6)

    def test_special_values(self):
        """Zeros stay zero; NaN stays within its unit, and in sight."""
        weight = np.ones((2, 3))
        gradient = np.array([[0.0, math.nan, 9.0], [0.0, 1.0, 9.0]])
        (result,) = applied(AdaptiveClip(0.5), [gradient], [weight])
        np.testing.assert_allclose(result, [[0.0, math.nan, 0.5], [0.0, math.nan, 0.5]], rtol=1e-6)

    def test_large_gradients(self):
        """An exploded, finite gradient is cut to the bound, not to nothing."""
        (result,) = applied(AdaptiveClip(0.5), [np.array([3e25, -4e25])], [np.array([6.0, 8.0])])
        np.testing.assert_allclose(result, [3.0, -4.0], rtol=1e-6)


class TestArguments:
    @pytest.mark.parametrize("make", [ClipValue, ClipNorm, AdaptiveClip])
    @pytest.mark.parametrize("bad", [0, -1.0, math.nan, INF, "1", None, True, [1.0]])
    def test_limits(self, make, bad):
        """A finite number > 0; the message has the argument's name and value."""
        name = {ClipValue: "limit", ClipNorm: "max_norm", AdaptiveClip: "ratio"}[make]
        message = f"`{name}` should be a finite number > 0. Received: {name}={bad!r}"
        with pytest.raises((ValueError, TypeError), match=re.escape(message)):
            make(bad)

    @pytest.mark.parametrize("make", [ClipValue, ClipNorm, AdaptiveClip])
    def test_limits_of_numpy(self, make):
        """Numbers of NumPy are numbers, as they are in rules."""
        assert 0.5 in make(np.float32(0.5)).get_config().values()

    @pytest.mark.parametrize("bad", [0, -1e-3, math.nan])
    def test_epsilon(self, bad):
        """Without it weights of 0 could not move."""
        with pytest.raises(ValueError, match=r"`epsilon` should be a finite number > 0. Received"):
            AdaptiveClip(0.1, epsilon=bad)

    def test_order_and_extent(self):
        """The message lists what there is."""
        with pytest.raises(ValueError, match=r"`ord` should be 1, 2 or .*Received: ord=3"):
            ClipNorm(1.0, ord=3)
        with pytest.raises(ValueError, match=r"be 'weight' or 'rule'. Received: per=1"):
            ClipNorm(1.0, per=1)

    def test_labels(self):
        """Labels have the arguments, as they can stand in a config."""
        assert ClipNorm(1, ord=INF).label == "ClipNorm(max_norm=1.0, ord='inf', per='weight')"
        assert ClipValue(2).label == "ClipValue(limit=2.0)"
        assert AdaptiveClip(0.25).label == "AdaptiveClip(ratio=0.25, epsilon=0.001)"
