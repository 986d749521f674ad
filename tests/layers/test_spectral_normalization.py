"""SpectralNormalization: what it divides by, what that does to gradients, and where it is used."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from compiling import JIT
from finegrain.layers import SpectralNormalization
from routing.differentiate import BACKEND, array, arrays, differentiate

both = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])


class Kind(NamedTuple):
    """A layer, the shape of its inputs, and the axes of its kernel that are the matrix's rows."""

    name: str
    make: Callable[[], keras.layers.Layer]
    shape: tuple[int, ...]
    rows: tuple[int, ...]


KINDS = [
    Kind("dense", lambda: layers.Dense(3), (2, 4), (1,)),
    Kind("einsum dense", lambda: layers.EinsumDense("bt,tcd->bcd", (2, 3)), (2, 4), (2,)),
    Kind("conv1d", lambda: layers.Conv1D(3, 2), (2, 4, 2), (2,)),
    Kind("conv2d", lambda: layers.Conv2D(3, 2), (2, 4, 4, 2), (3,)),
    Kind("grouped", lambda: layers.Conv2D(4, 2, groups=2), (2, 4, 4, 2), (3,)),
    Kind("conv3d", lambda: layers.Conv3D(3, 2), (2, 3, 3, 3, 2), (4,)),
    Kind("transposed 1d", lambda: layers.Conv1DTranspose(3, 2), (2, 4, 2), (1,)),
    Kind("transposed 2d", lambda: layers.Conv2DTranspose(3, 2, 2), (2, 3, 3, 2), (2,)),
    Kind("transposed 3d", lambda: layers.Conv3DTranspose(3, 2), (2, 2, 2, 2, 2), (3,)),
    Kind("depthwise 1d", lambda: layers.DepthwiseConv1D(2, depth_multiplier=3), (2, 4, 2), (1, 2)),
    Kind(
        "depthwise 2d",
        lambda: layers.DepthwiseConv2D(2, depth_multiplier=3),
        (2, 4, 4, 2),
        (2, 3),
    ),
    Kind("embedding", lambda: layers.Embedding(5, 3), (2, 4), (0,)),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def inputs_of(kind):
    if kind.name == "embedding":
        return drawn.generator(2).integers(5, size=kind.shape).astype("int32")
    return drawn.generator(2).normal(size=kind.shape).astype("float32")


def kernel_of(layer):
    return layer.layer.embeddings if hasattr(layer.layer, "embeddings") else layer.layer.kernel


def matrix_of(kernel, rows):
    rest = [axis for axis in range(kernel.ndim) if axis not in rows]
    size = int(np.prod([kernel.shape[axis] for axis in rows]))
    return kernel.transpose(*rows, *rest).reshape(size, -1)


def unit(vector):
    return vector / np.linalg.norm(vector)


def built(kind, **arguments):
    layer = SpectralNormalization(kind.make(), **arguments)
    layer(inputs_of(kind))
    return layer


def loss_of(layer, training=True):
    def loss(x):
        outputs = layer(
            ops.cast(x, "int32") if isinstance(layer.layer, layers.Embedding) else x,
            training=training,
        )
        factors = np.cos(np.arange(int(np.prod(outputs.shape)), dtype="float32"))
        return outputs * ops.convert_to_tensor(factors.reshape(outputs.shape)) + outputs**2

    return loss


def expected_step(layer, kind, iterations):
    """The vectors after a training call, σ and the kernel's gradient, in float64."""
    kernel = array(kernel_of(layer)).astype("float64")
    matrix = matrix_of(kernel, kind.rows)
    u, v = (array(x).astype("float64") for x in (layer.vector_u, layer.vector_v))
    for _ in range(iterations):
        u = unit(matrix @ v)
        v = unit(matrix.T @ u)
    sigma = u @ matrix @ v
    plain = kind.make()
    plain(inputs_of(kind))
    plain.set_weights([*layer.layer.get_weights()])
    (plain.embeddings if hasattr(plain, "embeddings") else plain.kernel).assign(kernel / sigma)
    shell = type("", (), {"layer": plain, "__call__": lambda self, x, training: plain(x)})()
    x = inputs_of(kind)
    result = differentiate(loss_of(shell), x.astype("float32"), [plain])
    slope = matrix_of(result.weights[0].astype("float64"), kind.rows)
    slope = (slope - (slope * matrix).sum() / sigma * np.outer(u, v)) / sigma
    return u, v, sigma, slope, result


@pytest.mark.selected("dense", "transposed 2d")
@every_kind
def test_steps(kind):
    """Vectors, outputs and gradients of two steps, with a kernel that moves in between."""
    layer = built(kind, power_iterations=2)
    x = inputs_of(kind)
    for _ in range(2):
        u, v, sigma, slope, plain = expected_step(layer, kind, 2)
        before = arrays(layer.trainable_variables)
        result = differentiate(loss_of(layer), x.astype("float32"), [layer])
        np.testing.assert_allclose(array(layer.vector_u), u, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(array(layer.vector_v), v, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result.value, plain.value, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(layer.sigma(), sigma, rtol=1e-6)
        found = matrix_of(result.weights[0], kind.rows)
        np.testing.assert_allclose(found, slope, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result.inputs, plain.inputs, rtol=1e-5, atol=1e-5)
        for variable, old in zip(layer.trainable_variables, before, strict=True):
            np.testing.assert_array_equal(array(variable), old)
        kernel = kernel_of(layer)
        kernel.assign(array(kernel) - 0.1 * result.weights[0])


def torch_twin(kind, layer):
    """PyTorch's layer of this kind, the order of its weight's axes, and the way its inputs go."""
    import torch

    kernel = array(kernel_of(layer))
    rank = kernel.ndim - 2
    if kind.name == "dense":
        return torch.nn.Linear(4, 3), (1, 0), False
    if kind.name == "embedding":
        return torch.nn.Embedding(5, 3), (0, 1), False
    inner = layer.layer
    space = tuple(range(rank))
    if kind.name.startswith("transposed"):
        make = getattr(torch.nn, f"ConvTranspose{rank}d")
        return make(2, 3, 2, stride=inner.strides), (rank + 1, rank, *space), True
    make = getattr(torch.nn, f"Conv{rank}d")
    if kind.name.startswith("depthwise"):
        return make(2, 6, 2, groups=2), None, True
    return make(2, inner.filters, 2, groups=inner.groups), (rank + 1, rank, *space), True


@pytest.mark.skipif(BACKEND != "torch", reason="compares with a layer of PyTorch")
@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k.name != "einsum dense"], ids=lambda kind: kind.name
)
def test_torch_does_the_same(kind):
    """`torch.nn.utils.parametrizations.spectral_norm` over steps of both, then in inference."""
    import torch

    layer = built(kind)
    module, order, moves_channels = torch_twin(kind, layer)

    def as_theirs(kernel):
        if order is None:
            *space, inputs, each = range(kernel.ndim)
            moved = kernel.transpose(inputs, each, *space)
            return moved.reshape(-1, 1, *moved.shape[2:])
        return kernel.transpose(order)

    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(as_theirs(array(kernel_of(layer))).copy()))
        if len(layer.layer.weights) > 1:
            module.bias.copy_(layer.layer.bias.value)
    torch.nn.utils.parametrizations.spectral_norm(module)
    parts = module.parametrizations.weight
    layer.vector_u.assign(parts[0]._u)
    v = parts[0]._v.numpy()
    if moves_channels and not kind.name.startswith("depthwise"):  # (channels, …) for them
        shape = (
            module.weight.shape[0 if kind.name.startswith("trans") else 1],
            *module.weight.shape[2:],
        )
        v = np.moveaxis(v.reshape(shape), 0, -1).ravel()
    layer.vector_v.assign(v)
    x = torch.from_numpy(inputs_of(kind))
    theirs_x = x.movedim(-1, 1) if moves_channels else x
    kernel = kernel_of(layer).value
    for training in (True, True, True, False):
        module.train(training)
        ours, theirs = layer(x, training=training), module(theirs_x)
        theirs = theirs.movedim(1, -1) if moves_channels else theirs
        np.testing.assert_allclose(array(ours), theirs.detach().numpy(), rtol=1e-5, atol=1e-5)
        (mine,) = torch.autograd.grad((ours**3).sum(), kernel)
        (original,) = torch.autograd.grad((theirs**3).sum(), parts.original)
        np.testing.assert_allclose(
            as_theirs(mine.numpy()), original.numpy(), rtol=1e-5, atol=1e-5 * original.abs().max()
        )
        with torch.no_grad():
            kernel -= 0.05 * mine / mine.abs().max()
            parts.original -= 0.05 * original / original.abs().max()


def test_first_estimate():
    """Before any step inference divides by σ already, closely."""
    layer = built(KINDS[0])
    kernel = array(layer.layer.kernel)
    np.testing.assert_allclose(layer.sigma(), np.linalg.svd(kernel)[1][0], rtol=0.05)
    x = inputs_of(KINDS[0])
    np.testing.assert_allclose(array(layer(x)), x @ kernel / layer.sigma(), rtol=1e-5, atol=1e-6)


def test_restart():
    """Another kernel has other vectors, which are found anew."""
    layer = built(KINDS[0])
    kernel = drawn.generator(5).normal(size=(4, 3)).astype("float32")
    layer.layer.kernel.assign(kernel)
    largest = np.linalg.svd(kernel)[1][0]
    assert abs(layer.sigma() - largest) > 1e-2 * largest
    layer.restart(50)
    np.testing.assert_allclose(layer.sigma(), largest, rtol=1e-3)


def test_kernel_of_zeros():
    """It stays as it is, with the gradient that it has, and can grow."""
    layer = SpectralNormalization(layers.Dense(3, kernel_initializer="zeros"))
    x = inputs_of(KINDS[0])
    layer(x)
    result = differentiate(lambda x: layer(x, training=True), x, [layer.layer])
    np.testing.assert_allclose(result.weights[0], x.sum(0)[:, None].repeat(3, 1), rtol=1e-5)
    layer.layer.kernel.assign(result.weights[0])
    layer(x, training=True)
    largest = np.linalg.svd(result.weights[0])[1][0]
    np.testing.assert_allclose(layer.sigma(), largest, rtol=1e-4)


def discriminator(wrap=SpectralNormalization):
    return keras.Sequential(
        [
            keras.Input((2,)),
            wrap(layers.Dense(8)),
            layers.LeakyReLU(0.2),
            layers.Dropout(0.25, seed=drawn.seed(3)),
            wrap(layers.Dense(1)),
        ]
    )


def test_training_and_inference_agree():
    """After `fit` all of `evaluate`, `predict` and a call compute with the kernel over σ."""
    model = keras.Sequential([keras.Input((4,)), SpectralNormalization(layers.Dense(1))])
    x, y = inputs_of(KINDS[0]), np.ones((2, 1), "float32")
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=JIT)
    history = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    layer = model.layers[0]
    kernel, bias = (array(v) for v in (layer.layer.kernel, layer.layer.bias))
    expected = x @ kernel / layer.sigma() + bias
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)
    loss = ((expected - y) ** 2).mean()
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), loss, rtol=1e-4, atol=1e-7)
    # A training call at the same weights takes one more step of iteration, which changes little.
    np.testing.assert_allclose(array(layer(x, training=True)), expected, rtol=0.05, atol=0.05)
    np.testing.assert_allclose(layer.sigma(), np.linalg.svd(kernel)[1][0], rtol=1e-2)


@both
def test_with_constant_weights(compiled):
    """The value and the gradient at the inputs of a plain call, none at the kernel."""
    x = inputs_of(KINDS[3])
    kind, found = KINDS[3], []
    weights = None
    for is_constant in (True, False):
        layer = built(kind)
        if weights is None:
            layer.layer.kernel.assign(drawn.generator(6).normal(size=layer.layer.kernel.shape))
            weights = layer.get_weights()
        layer.set_weights(weights)
        before = array(layer.vector_v).copy()
        call = fg.routing.constant_weights(layer) if is_constant else layer
        result = differentiate(
            lambda x, c=call: c(x, training=True) ** 2, x, [layer], compiled=compiled
        )
        found.append((result, arrays(layer.variables)))
    (held, of_held), (free, of_free) = found
    assert not any(gradient.any() for gradient in held.weights)
    assert free.weights[0].any()
    np.testing.assert_allclose(held.value, free.value, rtol=1e-6)
    np.testing.assert_allclose(held.inputs, free.inputs, rtol=1e-5, atol=1e-6)
    for mine, plain in zip(of_held, of_free, strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-6, atol=1e-7)
    assert not np.allclose(array(layer.vector_v), before)


@pytest.mark.full
@pytest.mark.parametrize("penalty", [None, "wgan_gp"])
def test_inside_a_gan(penalty):
    """Fits, and the scores of `predict` afterwards are those of kernels divided by σ."""
    generator = keras.Sequential([keras.Input((3,)), SpectralNormalization(layers.Dense(2))])
    judge = discriminator()
    penalties = [penalty] if penalty else []
    gan = fg.models.GAN(generator, judge, penalties=penalties, ema_momentum=0.9, seed=drawn.seed(5))
    gan.compile(keras.optimizers.Adam(0.05), jit_compile=JIT)
    x = drawn.generator(1).normal(size=(8, 2)).astype("float32")
    before = array(judge.layers[0].layer.kernel).copy()
    gan.fit(x, epochs=3, verbose=0)
    assert all(np.isfinite(weight).all() for weight in gan.get_weights())
    assert not np.array_equal(before, array(judge.layers[0].layer.kernel))

    def plain(network, x):
        for layer in network.layers:
            if isinstance(layer, SpectralNormalization):
                kernel, bias = (array(v) for v in (layer.layer.kernel, layer.layer.bias))
                x = x @ kernel / layer.sigma() + bias
            elif isinstance(layer, layers.LeakyReLU):
                x = np.where(x > 0, x, 0.2 * x)
        return x

    expected = plain(judge, x)
    np.testing.assert_allclose(gan.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(judge.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)
    scores = gan.evaluate(x, verbose=0, return_dict=True)
    np.testing.assert_allclose(scores["real_score"], expected.mean(), rtol=1e-4, atol=1e-5)
    assert np.isfinite(gan.generate(4, seed=0)).all()
    with gan.average.reading():
        layer = generator.layers[0]
        kernel, bias = (array(ops.copy(v)) for v in (layer.layer.kernel, layer.layer.bias))
        sigma = layer.sigma()
    noise = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    np.testing.assert_allclose(
        gan.generate(4, seed=0), noise @ kernel / sigma + bias, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(sigma, np.linalg.svd(kernel)[1][0], rtol=0.05)


# `pytest.warns` passes on what Keras causes on NumPy, under another module's name.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_kerass_own_inside_a_gan():
    """What it assigns is dropped there, with a warning that names this layer."""
    generator = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    gan = fg.models.GAN(generator, discriminator(layers.SpectralNormalization))
    x = drawn.generator(1).normal(size=(8, 2)).astype("float32")
    gan.compile("sgd", jit_compile=JIT)
    with pytest.warns(UserWarning, match=r"take finegrain\.layers\.SpectralNormalization"):
        gan.fit(x, verbose=0)
    gan.predict(x, verbose=0)  # assigns nothing


def test_shared():
    """Each training call takes its step, and both outputs have gradients."""
    layer = SpectralNormalization(layers.Dense(4))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(ops.tanh(layer(inputs))))
    x = inputs_of(KINDS[0])
    twin = SpectralNormalization(layers.Dense(4), 2)
    twin(x)
    twin.set_weights(layer.get_weights())
    result = differentiate(lambda x: model(x, training=True) ** 2, x, [layer])
    assert result.weights[0].any()
    twin(x, training=True)
    np.testing.assert_allclose(array(layer.vector_u), array(twin.vector_u), rtol=1e-5, atol=1e-6)
    # Inference, then training, in one loss: what the first call needs stays as it was.
    both_calls = differentiate(
        lambda x: layer(x, training=False) ** 2 + layer(x, training=True) ** 2, x, [layer]
    )
    assert both_calls.weights[0].any()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """σ is computed in float32; the wrapped layer casts as it would alone."""
    keras.config.set_dtype_policy(policy)
    layer = SpectralNormalization(layers.Dense(3))
    x = 1e-2 * inputs_of(KINDS[0])
    outputs = layer(x, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    assert {variable.dtype for variable in layer.weights} == {"float32"}
    kernel = array(layer.layer.kernel)
    np.testing.assert_allclose(layer.sigma(), np.linalg.svd(kernel)[1][0], rtol=1e-2)
    np.testing.assert_allclose(
        array(ops.cast(outputs, "float32")), x @ kernel / layer.sigma(), rtol=0.05, atol=1e-4
    )
    result = differentiate(lambda x: ops.cast(layer(x, training=True), "float32"), x, [layer])
    assert np.isfinite(result.weights[0]).all()
    assert result.weights[0].any()


def test_frozen():
    """Its vectors rest, as its kernel does."""
    layer = built(KINDS[0])
    layer.trainable = False
    before = layer.get_weights()
    layer(inputs_of(KINDS[0]), training=True)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_losses_and_updates_inside():
    """Losses of the wrapped layer count once, those on the kernel see the kernel itself."""
    inner = layers.Dense(
        3,
        kernel_regularizer=keras.regularizers.L2(0.5),
        activity_regularizer=keras.regularizers.L2(0.25),
    )
    layer = SpectralNormalization(inner)
    x = inputs_of(KINDS[0])
    outputs = layer(x)
    losses = sorted(float(array(loss)) for loss in layer.losses)
    expected = [0.25 * (array(outputs) ** 2).sum() / len(x), 0.5 * (array(inner.kernel) ** 2).sum()]
    np.testing.assert_allclose(losses, sorted(expected), rtol=1e-5)


def test_masks_pass():
    """An embedding's mask, and its dtype."""
    layer = SpectralNormalization(layers.Embedding(5, 3, mask_zero=True))
    outputs = layer(np.array([[0, 1]], "int32"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    np.testing.assert_array_equal(array(keras.src.backend.get_keras_mask(outputs)), [[0, 1]])


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (lambda: SpectralNormalization("dense"), TypeError, "should be a Keras layer"),
        (lambda: SpectralNormalization(layers.Dense(1), 0), ValueError, ">= 1"),
        (lambda: SpectralNormalization(layers.Dense(1), 1.5), TypeError, "integer"),
        (lambda: SpectralNormalization(layers.Dense(1), dtype="float16"), TypeError, "dtype"),
        (
            lambda: SpectralNormalization(layers.LayerNormalization()).build((2, 3)),
            ValueError,
            "`kernel` or `embeddings`",
        ),
    ],
)
@pytest.mark.one_backend
def test_bad_arguments(make, kind, match):
    """Errors say what to give."""
    with pytest.raises(kind, match=match):
        make()
