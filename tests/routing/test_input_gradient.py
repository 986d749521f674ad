"""The gradient at an input, of first and second order, against differences and formulas."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from routing.differentiate import BACKEND, array, arrays, differentiate

RNG = drawn.generator(0)
X = RNG.normal(size=(5, 3)).astype("float32")


def dense():
    drawn.seed_keras(1)
    last = layers.Dense(1, use_bias=False)  # a constant has no slope
    return keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), last])


def slope_of(model, x):
    """In float64: the gradient of each sample's score."""
    kernel, bias, last = (value.astype("float64") for value in arrays(model.weights))
    hidden = np.tanh(x @ kernel + bias)
    return (1 - hidden**2) * last[:, 0] @ kernel.T


def test_of_each_sample():
    """Of a batch: each sample's own."""
    model = dense()
    value, slopes = fg.routing.gradient(model, X, return_value=True)
    np.testing.assert_allclose(array(slopes), slope_of(model, X), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(array(value), array(model(X)), rtol=1e-6)
    assert keras.backend.standardize_dtype(slopes.dtype) == "float32"


@pytest.mark.parametrize("compiled", [False, True])
def test_a_loss_of_slopes_moves_weights(compiled):
    """Second order, through a compiled step: to the weights and to the input."""
    model = dense()

    def loss(x):
        return ops.sum(fg.routing.gradient(model, x) ** 2)

    found = differentiate(loss, X, [model], compiled=compiled)
    step = 1e-6
    for weight, gradient in zip(model.trainable_variables, found.weights, strict=True):
        expected = np.zeros(weight.shape)
        value = array(weight).astype("float64")
        for place in np.ndindex(*value.shape):
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[place] += sign * step
                ends.append(_squares(model, weight, moved, X.astype("float64")))
            expected[place] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5, err_msg=weight.path)
    ends = [slope_of(model, X.astype("float64") + sign * step * np.eye(3)[0]) for sign in (1, -1)]
    along = ((ends[0] ** 2).sum(1) - (ends[1] ** 2).sum(1)) / (2 * step)
    np.testing.assert_allclose(found.inputs[:, 0], along, rtol=1e-3, atol=1e-5)


def _squares(model, weight, value, x):
    kernel, bias, last = (
        value if other is weight else array(other).astype("float64") for other in model.weights
    )
    hidden = np.tanh(x @ kernel + bias)
    return (((1 - hidden**2) * last[:, 0] @ kernel.T) ** 2).sum()


def test_structures():
    """Inputs and outputs of several parts; what is not used has zeros."""
    x = {"a": X, "b": [X[:, 0], X[:, 1]], "unused": X}
    found = fg.routing.gradient(lambda x: [x["a"] ** 2, x["b"][0] * x["b"][1]], x)
    np.testing.assert_allclose(array(found["a"]), 2 * X, rtol=1e-6)
    np.testing.assert_allclose(array(found["b"][0]), X[:, 1], rtol=1e-6)
    np.testing.assert_allclose(array(found["b"][1]), X[:, 0], rtol=1e-6)
    assert not array(found["unused"]).any()
    constant = fg.routing.gradient(lambda x: ops.ones(()), X)
    assert not array(constant).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    x = ops.cast(X, dtype)
    found = fg.routing.gradient(lambda x: x**2, x)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    np.testing.assert_allclose(array(ops.cast(found, "float32")), 2 * X, rtol=2e-2)


def test_statistics_and_seeds_are_updated_once():
    model = keras.Sequential(
        [keras.Input((3,)), layers.BatchNormalization(momentum=0.5), layers.Dropout(0.5, seed=1)]
    )
    state = array(model.layers[1].seed_generator.state).copy()
    fg.routing.gradient(lambda x: model(x, training=True), X)
    np.testing.assert_allclose(
        array(model.layers[0].moving_mean), X.mean(0) / 2, rtol=1e-5, atol=1e-7
    )
    assert not np.array_equal(array(model.layers[1].seed_generator.state), state)


def test_in_a_call():
    """In a model's call, trained, evaluated and asked for predictions."""

    class Energy(keras.Model):
        """A force is the slope of an energy."""

        def __init__(self):
            super().__init__()
            self.energy = dense()

        def call(self, x):
            return -fg.routing.gradient(self.energy, x)

    model = Energy()
    model.compile(keras.optimizers.Adam(0.02), loss="mse")
    losses = model.fit(X, np.tanh(X), epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    np.testing.assert_allclose(
        model.predict(X, verbose=0), -slope_of(model.energy, X), rtol=1e-4, atol=1e-5
    )


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch's graphs")
def test_keeps_no_graph_where_none_is_built():
    import torch

    model = dense()
    with torch.no_grad():
        value, slopes = fg.routing.gradient(model, X, return_value=True)
    assert not slopes.requires_grad
    assert not value.requires_grad
    assert fg.routing.gradient(model, X).requires_grad


@pytest.mark.parametrize(
    ("function", "x", "message"),
    [
        (3, X, "Received: function=3"),
        (ops.sum, object(), "a tensor or array of floats. Received: x=<object"),
        (ops.sum, np.arange(3), "Only floats have gradients. Received: x of dtype int"),
        (lambda x: ops.argmax(x, 1), X, "should return tensors of floats"),
        (lambda x: 3, X, "should return tensors of floats. Received: 3"),
        (ops.sum, keras.Input((3,)), "not on keras.Input"),
    ],
)
def test_wrong_use(function, x, message):
    with pytest.raises(TypeError, match=message):
        fg.routing.gradient(function, x)
