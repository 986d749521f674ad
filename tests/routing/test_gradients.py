"""Stopped, scaled, reversed and replaced gradients, and the zero that has one."""

import keras
import numpy as np
import pytest
from keras import ops

import finegrain as fg
from finegrain._backend import backend
from routing.differentiate import BACKEND, array, differentiate

ROUTING = fg.routing
SPECIAL = np.array([1.5, -0.0, np.inf, -np.inf, np.nan, 3e38, 1e-45, -2.25], "float32")
X = np.array([[0.5, -1.25, 2.0], [3.0, -0.75, 0.1]], "float32")
both = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])

# What each does to x, and by what it multiplies the gradient.
FACTORS = {
    "stop": (ROUTING.stop_gradient, 0.0),
    "scale": (lambda x: ROUTING.scale_gradient(x, 0.25), 0.25),
    "scale by 0": (lambda x: ROUTING.scale_gradient(x, 0), 0.0),
    "scale by NumPy's": (lambda x: ROUTING.scale_gradient(x, np.float64(-3.0)), -3.0),
    "reverse": (ROUTING.reverse_gradient, -1.0),
    "reverse by 0.3": (lambda x: ROUTING.reverse_gradient(x, 0.3), -0.3),
}
every_factor = pytest.mark.parametrize(("route", "factor"), FACTORS.values(), ids=FACTORS)


def bits(tensor):
    return array(tensor).view("uint32")


@every_factor
def test_value_is_the_same_to_the_bit(route, factor):
    """The sign of zero, infinities, NaN, the largest and the smallest numbers included."""
    np.testing.assert_array_equal(bits(route(ops.convert_to_tensor(SPECIAL))), SPECIAL.view("u4"))


@every_factor
@both
def test_gradient_is_scaled(route, factor, compiled):
    """By the factor, of whatever comes back: here 3 x² from a cube."""
    result = differentiate(lambda x: route(x) ** 3, X, compiled=compiled)
    np.testing.assert_allclose(result.inputs, factor * 3 * X.astype("float64") ** 2, rtol=1e-6)
    np.testing.assert_allclose(result.value, (X.astype("float64") ** 3).sum(), rtol=1e-6)


@every_factor
@both
def test_second_derivative_is_scaled_again(route, factor, compiled):
    """d/dx of c · 3 y², where y is x but for its gradient: c² · 6 x."""

    def slope(x):
        if factor == 0:
            return 0 * x + backend.gradient(lambda x: (ops.sum(route(x) ** 3 + x), None), x)[0]
        return backend.gradient(lambda x: (ops.sum(route(x) ** 3), None), x)[0]

    result = differentiate(slope, X, compiled=compiled)
    np.testing.assert_allclose(result.inputs, factor**2 * 6 * X.astype("float64"), rtol=1e-6)


@every_factor
def test_gradient_at_infinity_is_scaled_too(route, factor):
    """What is not finite in value does not hide the gradient, nor a NaN in it."""
    x = np.array([np.inf, np.nan, 1.0], "float32")
    result = differentiate(lambda x: ops.where(x == x, route(x), 2 * route(x)), x)
    np.testing.assert_allclose(result.inputs, factor * np.array([1.0, 2.0, 1.0]), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_stays(dtype):
    x = ops.cast(X, dtype)
    for route in (
        ROUTING.stop_gradient(x),
        ROUTING.scale_gradient(x, 1e-3),
        ROUTING.scale_gradient(x, keras.Variable(0.5)),
        ROUTING.straight_through(ops.cast(ops.round(X), "float32"), x),
    ):
        assert keras.backend.standardize_dtype(route.dtype) == dtype


@pytest.mark.parametrize("function", [ROUTING.scale_gradient, ROUTING.reverse_gradient])
def test_no_variable_in_a_functional_model(function):
    """Its value would be that of the day when the model was made."""
    with pytest.raises(TypeError, match="in the `call` of a layer that holds the variable"):
        function(keras.Input((2,)), keras.Variable(0.5))


@both
def test_factor_may_be_a_variable(compiled):
    """It can change during training; no gradient reaches it."""
    layer = keras.layers.Layer()
    layer.strength = layer.add_weight(shape=(), initializer="ones")

    def function(x):
        return ROUTING.reverse_gradient(x, layer.strength) ** 2

    for strength in (0.0, 0.5):
        layer.strength.assign(strength)
        result = differentiate(function, X, [layer], compiled=compiled)
        np.testing.assert_allclose(result.inputs, -strength * 2 * X, rtol=1e-6)
        assert result.weights == [0]


@both
def test_straight_through(compiled):
    """The value of the rounding with the gradient of tanh, and none for what is rounded."""

    def function(x):
        return ROUTING.straight_through(ops.round(x) * x, ops.tanh(x)) ** 2

    result = differentiate(function, X, compiled=compiled)
    x = X.astype("float64")
    value = np.round(x) * x
    np.testing.assert_allclose(result.value, (value**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(result.inputs, 2 * value * (1 - np.tanh(x) ** 2), rtol=1e-5)


@both
def test_straight_through_has_second_derivatives_of_the_surrogate(compiled):
    """The gradient of y = tanh x (in disguise) is 1 − tanh² x, and its derivative follows."""

    def slope(x):
        y = lambda x: ROUTING.straight_through(ops.sign(x), ops.tanh(x))  # noqa: E731
        return backend.gradient(lambda x: (ops.sum(y(x)), None), x)[0]

    result = differentiate(slope, X, compiled=compiled)
    t = np.tanh(X.astype("float64"))
    np.testing.assert_allclose(result.inputs, -2 * t * (1 - t**2), rtol=1e-5, atol=1e-6)


def test_straight_through_rounds_nothing():
    """As `surrogate + stop_gradient(value - surrogate)` does, where sizes differ."""
    value = SPECIAL
    for surrogate in (1e10, np.inf, np.nan):
        routed = ROUTING.straight_through(value, np.full_like(value, surrogate))
        np.testing.assert_array_equal(bits(routed), value.view("u4"))


def test_straight_through_takes_integer_values():
    """A choice as integers comes out in the surrogate's dtype."""
    routed = ROUTING.straight_through(np.array([0, 1, 1]), np.array([0.2, 0.5, 0.9], "float32"))
    assert keras.backend.standardize_dtype(routed.dtype) == "float32"
    np.testing.assert_array_equal(array(routed), [0, 1, 1])


@both
def test_inner_gradient_only(compiled):
    """L(D, G) − L(D, G_ng) is 0, and its gradient (0, ∇_G L): the source's identity."""
    generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh")])
    discriminator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, "tanh")])
    layers = [generator, discriminator]

    def loss(x):
        return ops.mean(discriminator(x) ** 2)

    whole = differentiate(lambda z: loss(generator(z)), X, layers, compiled=compiled)
    inner = differentiate(
        lambda z: ROUTING.inner_gradient_only(loss, generator(z)), X, layers, compiled=compiled
    )
    assert inner.value == 0
    for gradient, full in zip(inner.weights[:2], whole.weights[:2], strict=True):
        assert np.abs(full).max() > 1e-3
        np.testing.assert_allclose(gradient, full, rtol=1e-5, atol=1e-7)
    for gradient, full in zip(inner.weights[2:], whole.weights[2:], strict=True):
        assert np.abs(full).max() > 1e-3
        np.testing.assert_allclose(gradient, 0 * full, atol=1e-7)
    np.testing.assert_allclose(inner.inputs, whole.inputs, rtol=1e-5, atol=1e-7)


def test_structures_keep_their_form():
    x = {"a": ops.ones(2), "b": [ops.zeros(3), ops.ones(())]}
    for routed in (
        ROUTING.stop_gradient(x),
        ROUTING.scale_gradient(x, 2.0),
        ROUTING.reverse_gradient(x),
        ROUTING.straight_through(x, x),
        ROUTING.inner_gradient_only(lambda x: x, x),
    ):
        keras.tree.assert_same_structure(routed, x)


def functional_model():
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, "tanh", name="features")(inputs)
    label = keras.layers.Dense(2, name="label")(hidden)
    domain = keras.layers.Dense(1, name="domain")(ROUTING.reverse_gradient(hidden, 0.5))
    rounded = ROUTING.straight_through(ops.round(hidden), hidden)
    return keras.Model(inputs, [label, domain, ROUTING.stop_gradient(hidden), rounded])


def test_in_a_functional_model(tmp_path):
    """They are nodes like any other; the file needs no custom objects."""
    model = functional_model()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for model in (model, again):  # noqa: B020

        def domain_loss(x, model=model):
            return model(x)[1]

        kernel = array(model.get_layer("domain").kernel)
        features = model.get_layer("features")
        result = differentiate(domain_loss, X, [model])
        hidden = np.tanh(X @ array(features.kernel))
        slope = -0.5 * (1 - hidden**2) * kernel[:, 0] @ array(features.kernel).T
        np.testing.assert_allclose(result.inputs, slope, rtol=1e-5, atol=1e-6)
        stopped = differentiate(lambda x, model=model: model(x)[2], X, [model])
        assert not stopped.inputs.any()
        np.testing.assert_allclose(array(model(X)[3]), np.round(hidden), atol=1e-6)


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), np.float32("nan")])
def test_factors_are_finite(factor):
    with pytest.raises(ValueError, match="Received: factor="):
        ROUTING.scale_gradient(X, factor)


@pytest.mark.parametrize("factor", ["1", None, True, 1j])
def test_factors_are_numbers(factor):
    with pytest.raises(TypeError, match="Received: factor="):
        ROUTING.reverse_gradient(X, factor)


def test_wrong_tensors_are_refused():
    with pytest.raises(TypeError, match="int32; cast it"):
        ROUTING.scale_gradient(np.arange(3, dtype="int32"), 2.0)
    with pytest.raises(TypeError, match="`surrogate`"):
        ROUTING.straight_through(np.ones(3), np.ones(3, "int32"))
    with pytest.raises(ValueError, match=r"value.shape=\(3,\), surrogate.shape=\(1, 3\)"):
        ROUTING.straight_through(np.ones(3), np.ones((1, 3)))
    with pytest.raises(TypeError, match="Received: f=3"):
        ROUTING.inner_gradient_only(3, X)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's forward mode")
def test_forward_mode_on_jax():
    """`jax.hessian` is forward over reverse, which custom gradients often lack."""
    import jax

    hessian = jax.hessian(lambda x: ops.sum(ROUTING.scale_gradient(x, 3.0) ** 3))(X[0])
    np.testing.assert_allclose(hessian, np.diag(9 * 6 * X[0]), rtol=1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's function transforms")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_function_transforms_on_torch():
    import torch

    def function(x):
        return ROUTING.scale_gradient(x, 3.0).pow(3).sum()

    x = torch.tensor(X)
    np.testing.assert_allclose(torch.func.hessian(function)(x[0]), np.diag(9 * 6 * X[0]), rtol=1e-6)
    per_row = torch.func.vmap(torch.func.grad(function))(x)
    np.testing.assert_allclose(per_row, 9 * X**2, rtol=1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's memory")
def test_nothing_is_kept_on_torch():
    """The node in the graph holds no tensor for its backward pass."""
    import torch

    held = []
    hooks = torch.autograd.graph.saved_tensors_hooks(held.append, lambda tensor: tensor)
    x = torch.tensor(X, requires_grad=True)
    with hooks:
        ROUTING.reverse_gradient(x)
        ROUTING.straight_through(torch.round(x.detach()), x)
        ROUTING.stop_gradient(x)
    assert held == []
