"""Layers that are computed again in the backward pass, where they are read with other values."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from routing.differentiate import BACKEND, array, differentiate

constant_weights = fg.routing.constant_weights
of_torch = pytest.mark.skipif(
    BACKEND != "torch", reason="Keras cannot rematerialize this on other backends"
)


def scope(is_recomputed):
    return keras.RematScope("full") if is_recomputed else contextlib.nullcontext()


def inputs():
    return drawn.generator(3).normal(size=(6, 4)).astype("float32")


class ByHand(keras.layers.Layer):
    """A layer that rematerializes a function of its own."""

    def __init__(self, is_recomputed):
        super().__init__()
        self.first, self.second = layers.Dense(5, "tanh"), layers.Dense(4)
        self.function = keras.remat(self.whole) if is_recomputed else self.whole

    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 5))

    def whole(self, x):
        return self.second(self.first(x))

    def call(self, x):
        return self.function(x)


def network(*parts):
    def make(is_recomputed):
        with scope(is_recomputed):
            return keras.Sequential([keras.Input((4,)), *(part() for part in parts)])

    return make


def wrapped(wrap):
    def make(is_recomputed):
        with scope(is_recomputed):
            inner = layers.Dense(5, "tanh", bias_initializer="ones")
        return wrap(inner)

    return make


def between(part):
    """A network whose own recomputation, for what its last layer takes, comes by the part."""
    return network(lambda: layers.Dense(5, "tanh"), part, lambda: layers.Dense(4, "tanh"))


NETWORKS = {
    "dense": between(lambda: layers.Dense(5, "tanh")),
    "statistics": between(layers.BatchNormalization),
    "seeds": between(lambda: layers.Dropout(0.5, seed=drawn.seed(4))),
    "by hand": ByHand,
    "scaled": wrapped(lambda layer: fg.layers.SetLearningRate(layer, 9.0, False)),
    "normalized": wrapped(fg.layers.SpectralNormalization),
}


def compared(make, call_of, x=None):
    """Gradients and the state after a step, without and with rematerialization."""
    x, results = inputs() if x is None else x, []
    for is_recomputed in (False, True):
        drawn.seed_keras(5)
        layer = make(is_recomputed)
        layer(x)
        call = call_of(layer)

        # Twice: what the first call reads has been assigned by the time of the backward pass.
        def loss(x, call=call):
            factors = ops.convert_to_tensor(np.arange(6.0, dtype="float32")[:, None])
            return call(x) ** 2 + call(x) * factors

        result = differentiate(loss, x, [layer])
        results.append((result, [array(v) for v in layer.non_trainable_variables]))
    (plain, state), (again, state_again) = results
    assert np.abs(plain.inputs).max() > 1e-3
    np.testing.assert_allclose(again.value, plain.value, rtol=1e-6)
    np.testing.assert_allclose(again.inputs, plain.inputs, rtol=1e-5, atol=1e-6)
    for one, other in zip(again.weights, plain.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for one, other in zip(state_again, state, strict=True):
        np.testing.assert_array_equal(one, other)
    return plain


def training(call):
    return lambda x: call(x, training=True)


@of_torch
@pytest.mark.parametrize("name", ["dense", "statistics", "seeds"])
def test_constant_weights_of_networks(name):
    """Gradients, statistics and seeds are those without; no gradient reaches a weight."""
    result = compared(NETWORKS[name], lambda layer: training(constant_weights(layer)))
    assert not any(gradient.any() for gradient in result.weights)


def test_constant_weights_of_a_function_by_hand():
    """`keras.remat` of a function that was made with the layer."""
    result = compared(NETWORKS["by hand"], constant_weights)
    assert not any(gradient.any() for gradient in result.weights)


@pytest.mark.parametrize("name", ["scaled", "normalized"])
def test_other_values(name):
    """Wrappers whose layer reads other values than its variables have."""
    if BACKEND == "tensorflow":
        with pytest.raises(NotImplementedError, match="without rematerialization"):
            compared(NETWORKS[name], lambda layer: layer)
        return
    result = compared(NETWORKS[name], lambda layer: layer)
    assert all(gradient.any() for gradient in result.weights)


@of_torch
@pytest.mark.parametrize("name", ["dense", "statistics", "seeds"])
def test_inside_a_gan(name):
    """The gradients of a discriminator and its state after a step, slopes included."""
    found = []
    for is_recomputed in (False, True):
        drawn.seed_keras(5)
        generator = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
        judge = keras.Sequential(
            [keras.Input((4,)), NETWORKS[name](is_recomputed), layers.Dense(1)]
        )
        gan = fg.models.GAN(generator, judge, penalties=["r1"], seed=drawn.seed(6))
        drawn.seed_keras(7)
        result = differentiate(lambda x, gan=gan: gan.compute_loss(x), inputs(), [gan])
        found.append((result.weights, [array(v).copy() for v in judge.non_trainable_variables]))
    for plain, again in zip(found[0], found[1], strict=True):
        for one, other in zip(plain, again, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


@of_torch
def test_a_call_inside_of_what_is_computed_again():
    """A recomputation that calls a layer of constant weights anew needs no help."""
    layer = layers.Dense(4, "tanh")
    layer(inputs())
    call = constant_weights(layer)
    plain = differentiate(lambda x: call(x) ** 2, inputs(), [layer])
    again = differentiate(lambda x: keras.remat(lambda x: call(x) ** 2)(x), inputs(), [layer])
    np.testing.assert_allclose(again.inputs, plain.inputs, rtol=1e-6)
    assert not any(gradient.any() for gradient in again.weights)


@of_torch
def test_torch_that_cannot_be_followed(monkeypatch):
    """Where PyTorch keeps its records elsewhere, an error says what to do."""
    import torch.utils.checkpoint

    layer = ByHand(True)
    layer(inputs())
    monkeypatch.setattr(torch.utils.checkpoint, "__file__", "elsewhere.py")
    with pytest.raises(NotImplementedError, match=r"outside of keras\.RematScope"):
        differentiate(lambda x: ops.sum(constant_weights(layer)(x)), inputs(), [layer])
