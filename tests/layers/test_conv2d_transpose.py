"""Conv2DTranspose: Keras's in all that it computes, with derivatives of any order."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from finegrain._backend import backend
from finegrain.layers import Conv2DTranspose
from routing.differentiate import BACKEND, array, differentiate

of_jax = pytest.mark.skipif(BACKEND != "jax", reason="elsewhere it computes as Keras does")

FORMS = {
    "same": {"strides": 2, "padding": "same"},
    "valid": {"strides": 2},
    "one stride": {"kernel_size": 3, "padding": "same"},
    "odd": {"kernel_size": 3, "strides": (2, 3), "padding": "same", "activation": "tanh"},
    "oblong": {"kernel_size": (2, 5), "strides": (3, 2), "use_bias": False},
    "small kernel": {"kernel_size": 2, "strides": 3, "padding": "same"},
    "small kernel, valid": {"kernel_size": (1, 2), "strides": 3},
    "output padding": {"kernel_size": 3, "strides": 2, "output_padding": 1},
    "output padding, same": {"strides": (2, 3), "padding": "same", "output_padding": (1, 2)},
    "no output padding": {"kernel_size": 3, "strides": 2, "padding": "same", "output_padding": 0},
    "dilated": {"kernel_size": 3, "dilation_rate": 2},
    "dilated, same": {"kernel_size": 2, "dilation_rate": (2, 3), "padding": "same"},
    "channels first": {"strides": 2, "padding": "same", "data_format": "channels_first"},
}
# Elsewhere one will do: there is nothing to compare but Keras with itself.
forms = pytest.mark.parametrize("name", FORMS if BACKEND == "jax" else ["same", "valid"])


def pair_of(name, **more):
    """The layer and Keras's own, with the same weights, and inputs."""
    arguments = {"kernel_size": 4, "bias_initializer": "ones"} | FORMS[name] | more
    shape = (2, 3, 5, 4) if "data_format" not in arguments else (2, 4, 3, 5)
    ours, theirs = (kind(3, **arguments) for kind in (Conv2DTranspose, layers.Conv2DTranspose))
    x = drawn.generator(7).normal(size=shape).astype("float32")
    for layer in (ours, theirs):
        layer.build(shape)
    theirs.set_weights(ours.get_weights())
    return ours, theirs, x


def loss_of(layer):
    def loss(x):
        outputs = layer(x)
        factors = np.cos(np.arange(int(np.prod(outputs.shape)), dtype="float32"))
        return outputs**2 + outputs * ops.convert_to_tensor(factors.reshape(outputs.shape))

    return loss


@forms
def test_value_and_gradients(name):
    """Keras's, at the inputs and at all weights."""
    ours, theirs, x = pair_of(name)
    assert tuple(ours.compute_output_shape(x.shape)) == tuple(theirs(x).shape)
    found, expected = (differentiate(loss_of(layer), x, [layer]) for layer in (ours, theirs))
    np.testing.assert_allclose(array(ours(x)), array(theirs(x)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.inputs, expected.inputs, rtol=1e-5, atol=1e-5)
    for one, other in zip(found.weights, expected.weights, strict=True):
        assert other.any()
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


@forms
def test_second_derivatives(name):
    """Of a penalty on the slope, at the inputs and at all weights."""
    ours, theirs, x = pair_of(name, activation="tanh")

    def penalty(layer):
        return lambda x: backend.gradient(lambda x: (ops.sum(layer(x) ** 2), None), x)[0] ** 2

    found, expected = (differentiate(penalty(layer), x, [layer]) for layer in (ours, theirs))
    np.testing.assert_allclose(found.inputs, expected.inputs, rtol=1e-4, atol=1e-4)
    for one, other in zip(found.weights, expected.weights, strict=True):
        assert other.any()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


@of_jax
def test_third_derivatives():
    """Each of the three maps is differentiated as it should be: against JAX's own rules."""
    import jax

    ours, theirs, x = pair_of("odd")
    kernel = ours.kernel.value

    def cube(layer):
        def value(x, kernel):
            with keras.StatelessScope([(layer.kernel, kernel)]):
                return ops.sum(ops.sin(layer(x)) ** 3)

        slope = jax.grad(value, (0, 1))
        bend = jax.grad(lambda x, k: sum(ops.sum(s**2) for s in slope(x, k)), (0, 1))
        return jax.jit(jax.grad(lambda x, k: sum(ops.sum(s**2) for s in bend(x, k)), (0, 1)))

    for one, other in zip(cube(ours)(x, kernel), cube(theirs)(x, kernel), strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one / scale, other / scale, rtol=1e-3, atol=1e-4)


@of_jax
def test_kernel_gradient_is_that_of_the_strided_convolution():
    """The compiled gradient of the kernel has no convolution of dilated inputs."""
    import jax

    def program(layer, x):
        def loss(kernel):
            with keras.StatelessScope([(layer.kernel, kernel)]):
                return ops.sum(layer(x) ** 2)

        return str(jax.make_jaxpr(jax.grad(loss))(layer.kernel.value))

    ours, theirs, x = pair_of("same")
    # One in the forward pass; in the backward pass the kernel's own is strided in Keras's, too,
    # but by what is dilated: (1, 1) strides of lhs (2, 2).
    dilated = "lhs_dilation=(2, 2)"
    assert program(theirs, x).count(dilated) == 2
    assert program(ours, x).count(dilated) == 1


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """Half precision inside, whole weights."""
    keras.config.set_dtype_policy(policy)
    ours, theirs, x = pair_of("same")
    assert array(ours(x)).dtype == array(theirs(x)).dtype
    found, expected = (
        differentiate(lambda x, layer=layer: ops.cast(layer(x), "float32"), x, [layer])
        for layer in (ours, theirs)
    )
    for one, other in zip(found.weights, expected.weights, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0.05, atol=0.05 * np.abs(other).max())


def test_saved_and_loaded(tmp_path):
    """A file of Keras's weights serves it, and the other way; a model loads as it was."""
    drawn.seed_keras(1)

    def model(kind):
        return keras.Sequential([keras.Input((3, 3, 2)), kind(2, 4, 2, "same")])

    ours, theirs = model(Conv2DTranspose), model(layers.Conv2DTranspose)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours.load_weights(tmp_path / "theirs.weights.h5")
    x = np.ones((1, 3, 3, 2), "float32")
    np.testing.assert_allclose(array(ours(x)), array(theirs(x)), rtol=1e-6, atol=1e-6)
    ours.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    assert type(again.layers[0]) is Conv2DTranspose
    assert again.layers[0].get_config() == ours.layers[0].get_config()
    np.testing.assert_array_equal(array(again(x)), array(ours(x)))


def test_trains_with_constant_weights_and_spectral_normalization():
    """Inside of the other layers and functions that read other weights."""
    ours, theirs, x = pair_of("same")
    found = []
    for layer in (ours, theirs):
        wrapped = fg.layers.SpectralNormalization(layer)
        wrapped(x)
        wrapped.set_weights(found[0][1] if found else wrapped.get_weights())
        call = fg.routing.constant_weights(wrapped)
        result = differentiate(lambda x, c=call, w=wrapped: c(x) ** 2 + w(x), x, [wrapped])
        found.append((result, wrapped.get_weights()))
    for one, other in zip(found[0][0].weights, found[1][0].weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0][0].inputs, found[1][0].inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.one_backend
def test_bad_arguments():
    """Keras's own checks."""
    with pytest.raises(ValueError, match="strides"):
        Conv2DTranspose(3, 4, strides=2, dilation_rate=2)
