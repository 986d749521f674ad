"""A GAN in Keras's own training: every kind of data, of compiling, of precision, of optimizer."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from compiling import XLA
from covering import chosen
from gan.games import LABELS, LATENT, X, labelled_networks, networks, neutral_noise
from routing.differentiate import BACKEND, arrays

RULED = [(1.0, 1.0), (0.1, 1.0), (1.0, 0.1)]


def data_sets(*parts):
    """The same batches of 8, in the order of the samples, in all forms that Keras takes."""
    yield "arrays", parts
    if len(parts) == 2:
        yield "a pair", (parts,)
    try:
        import torch.utils.data as torch_data
    except ImportError:
        pass
    else:
        tensors = [torch_data.default_convert(part) for part in parts]
        yield "DataLoader", (torch_data.DataLoader(torch_data.TensorDataset(*tensors), 8),)
    try:
        import tensorflow as tf
    except ImportError:
        pass
    else:
        yield "tf.data", (tf.data.Dataset.from_tensor_slices(parts).batch(8),)


def fit(gan, *data, **arguments):
    batch = {} if hasattr(data[0], "batch") or hasattr(data[0], "dataset") else {"batch_size": 8}
    return gan.fit(*data, shuffle=False, verbose=0, **batch, **arguments).history


def assert_moved(gan, before):
    for variable, old in zip(gan.trainable_variables, before, strict=True):
        (new,) = arrays([variable])
        assert np.isfinite(new).all()
        assert not np.array_equal(new, old), variable.path


@pytest.mark.full
@pytest.mark.parametrize("labels", chosen([False, True], [True]))
def test_all_forms_of_data(labels):
    """Arrays, pairs, tf.data and DataLoader on each backend: the same steps to the same weights."""
    gan = fg.models.GAN(*(labelled_networks() if labels else networks()), seed=drawn.seed(0))
    gan.compile(keras.optimizers.SGD(0.05), jit_compile=XLA or "auto")
    start = arrays(gan.variables)
    ends, metrics = {}, {}
    for name, data in data_sets(*((X, LABELS) if labels else (X,))):
        for variable, value in zip(gan.variables, start, strict=True):
            variable.assign(value)
        assert np.isfinite(fit(gan, *data)["loss"]).all()
        ends[name] = arrays(gan.weights)
        metrics[name] = gan.evaluate(*data, verbose=0, return_dict=True)
    assert len(ends) > labels
    first = next(iter(ends))
    for name, end in ends.items():
        for weight, expected in zip(end, ends[first], strict=True):
            np.testing.assert_array_equal(weight, expected, err_msg=name)
    if labels:
        batches = [(X[:8], LABELS[:8]), (X[8:], LABELS[8:])]
        for variable, value in zip(gan.variables, start, strict=True):
            variable.assign(value)
        for samples, kinds in batches:
            gan.train_on_batch(samples, kinds)
        for weight, expected in zip(arrays(gan.weights), ends[first], strict=True):
            np.testing.assert_array_equal(weight, expected)
        scores = gan.predict((X, LABELS), verbose=0)
    else:
        scores = gan.predict(X, verbose=0)
    assert scores.shape == (16, 1)
    assert metrics[first]["real_score"] == pytest.approx(scores.mean(), rel=1e-4)


def test_ways_of_compiling_agree(monkeypatch):
    """Plain, compiled, eager, and several steps in one execution take the same steps."""
    monkeypatch.setattr(keras.random, "normal", neutral_noise)  # XLA's own differs on TensorFlow
    ways = {"plain": {"jit_compile": False}, "eager": {"run_eagerly": True}}
    if BACKEND != "torch":  # TorchDynamo is slow to start, and Keras takes one step at a time
        ways |= {
            "compiled": {"jit_compile": True},
            "two at a time": {"steps_per_execution": 2, "jit_compile": XLA or "auto"},
        }
    ends = {}
    for name, way in ways.items():
        drawn.seed_keras(1)
        gan = fg.models.GAN(*networks(), penalties=["r1"], ema_momentum=0.5, seed=drawn.seed(0))
        gan.compile(keras.optimizers.SGD(0.05), **way)
        fit(gan, X)
        ends[name] = arrays(gan.weights)
    for name, end in ends.items():
        for weight, expected in zip(end, ends["plain"], strict=True):
            np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.full
@pytest.mark.parametrize("policy", chosen(["mixed_float16", "mixed_bfloat16"], ["mixed_float16"]))
def test_mixed_precision(policy):
    """Half precision inside; weights, losses and scores in float32, near those of float32."""
    losses = {}
    for name in ("float32", policy):
        keras.config.set_dtype_policy(name)
        drawn.seed_keras(1)
        gan = fg.models.GAN(
            *networks(),
            "non_saturating",
            penalties=["wgan_gp"],
            ema_momentum=0.9,
            seed=drawn.seed(0),
        )
        gan.compile(keras.optimizers.SGD(0.01))
        before = arrays(gan.trainable_variables)
        losses[name] = gan.train_on_batch(X, return_dict=True)["loss"]
    for _ in range(9):  # while the scale of the loss is found, steps are left out
        gan.train_on_batch(X)
    assert_moved(gan, before)
    assert all(weight.dtype == "float32" for weight in gan.weights if weight is not gan.steps)
    is_scaled = isinstance(gan.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (policy == "mixed_float16")
    assert losses[policy] == pytest.approx(losses["float32"], rel=0.02)
    assert gan.generate(2, seed=drawn.seed(0)).shape == (2, 2)


@pytest.mark.full
def test_unbuilt_networks():
    """Networks that get their weights from the first samples, and a moving average of them."""

    class Network(keras.Model):
        def __init__(self, outputs):
            super().__init__()
            self.kind, self.hidden = layers.Embedding(3, 2), layers.Dense(4, "tanh")
            self.last = layers.Dense(outputs)

        def call(self, inputs):
            samples, labels = inputs
            hidden = ops.concatenate([samples, self.kind(labels)], axis=-1)
            return self.last(self.hidden(hidden))

    gan = fg.models.GAN(
        Network(2),
        Network(1),
        "non_saturating",
        latent_dim=LATENT,
        ema_momentum=0.5,
        seed=drawn.seed(0),
    )
    gan.compile(fg.PerWeight("sgd", [fg.Rule(gan.generator, learning_rate_multiplier=0.5)]))
    with pytest.raises(ValueError, match="no weights yet: call `fit` or `build`"):
        gan.generate(1, labels=[0])
    # The first batch has to show that there are labels; later ones may bring them as y.
    fit(gan, (X, LABELS))
    before = arrays(gan.trainable_variables)
    assert len(before) == 10
    fit(gan, X, LABELS)
    assert_moved(gan, before)
    assert gan.generate(3, seed=drawn.seed(0), labels=[0, 1, 2]).shape == (3, 2)


@pytest.mark.full
def test_optimizers_with_state_and_rules():
    """Step sizes that learn round a rule for the generator: all weights move and stay finite."""
    generator, discriminator = networks()
    gan = fg.models.GAN(generator, discriminator, loss="non_saturating", seed=drawn.seed(0))
    inner = fg.PerWeight("adam", [fg.Rule(generator, learning_rate_multiplier=0.5)])
    gan.compile(fg.optimizers.AdaptiveStepSize(inner))
    before = arrays(gan.trainable_variables)
    fit(gan, X, epochs=2)
    assert_moved(gan, before)


@pytest.mark.full
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", *["RMSprop"] * (BACKEND == "torch")])
def test_what_moves_at_another_pace(optimizer):
    """Under SGD λ is a rate of the generator's own; adaptive optimizers divide it out."""
    kind = getattr(keras.optimizers, optimizer)
    arguments = {} if optimizer == "SGD" else {"epsilon": 1e-20}
    paths = []
    for weight, multiplier in RULED:
        drawn.seed_keras(1)
        generator, discriminator = networks()
        gan = fg.models.GAN(
            generator, discriminator, "non_saturating", generator_weight=weight, seed=drawn.seed(0)
        )
        rule = fg.Rule(generator, learning_rate_multiplier=multiplier)
        gan.compile(fg.PerWeight(kind(0.01, **arguments), [rule]))
        start = np.concatenate([v.ravel() for v in arrays(generator.trainable_variables)])
        path = []
        for _ in range(6):
            gan.train_on_batch(X)
            now = np.concatenate([v.ravel() for v in arrays(generator.trainable_variables)])
            path.append(now - start)
        paths.append(np.array(path))
    plain, by_weight, by_rule = paths
    way = np.abs(plain).max()
    if optimizer == "SGD":
        np.testing.assert_allclose(by_weight, by_rule, rtol=0, atol=1e-4 * way)
    else:
        np.testing.assert_allclose(by_weight, plain, rtol=0, atol=1e-3 * way)
    assert np.abs(by_rule).max() < 0.2 * way


@keras.saving.register_keras_serializable("tests")
def every_third(step):
    return ops.where(step % 3 == 2, 1.0, 0.0)


@pytest.mark.full
def test_several_steps_of_the_discriminator():
    """A rule that rests between: as by turns, with an optimizer for each network."""
    drawn.seed_keras(1)
    generator, discriminator = networks()
    gan = fg.models.GAN(generator, discriminator, "non_saturating", seed=drawn.seed(0))
    rule = fg.Rule(generator, learning_rate_multiplier=every_third)
    gan.compile(fg.PerWeight(keras.optimizers.Adam(0.01), [rule]))
    start = arrays(gan.trainable_variables)
    for _ in range(6):
        gan.train_on_batch(X)
    found = arrays(gan.trainable_variables)

    for variable, value in zip(gan.trainable_variables, start, strict=True):
        variable.assign(value)
    turns = fg.models.GAN(generator, discriminator, "non_saturating", seed=drawn.seed(0))
    own = [keras.optimizers.Adam(0.01) for _ in range(2)]
    sides = [generator.trainable_variables, discriminator.trainable_variables]
    for optimizer, side in zip(own, sides, strict=True):
        optimizer.build(side)
    for step in range(6):
        gradients = gradients_of(turns)
        if step % 3 == 2:
            own[0].apply(gradients[:4], sides[0])
        own[1].apply(gradients[4:], sides[1])
    for weight, expected, old in zip(arrays(gan.trainable_variables), found, start, strict=True):
        assert not np.array_equal(expected, old)
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-5)


def gradients_of(gan):
    from gan.test_gradients import gradients

    return [ops.convert_to_tensor(gradient) for gradient in gradients(gan).weights]


@pytest.mark.full
def test_one_pass_of_the_generator():
    """In a step, traced or run, it is called once."""
    calls = []

    class Counted(layers.Layer):
        def call(self, x):
            calls.append(1)
            return x

    generator = keras.Sequential([keras.Input((LATENT,)), layers.Dense(2), Counted()])
    gan = fg.models.GAN(
        generator,
        networks()[1],
        "wasserstein",
        penalties=["wgan_gp"],
        seed=drawn.seed(0),
    )
    gan.compile("sgd", run_eagerly=True)
    calls.clear()
    gan.train_on_batch(X)
    assert len(calls) == 1


@pytest.mark.full
def test_learns():
    """From noise to the mean of the samples and near their spread."""
    gan = fg.models.GAN(
        *networks(), loss="non_saturating", penalties=[("r1", 0.3)], seed=drawn.seed(0)
    )
    gan.compile(keras.optimizers.Adam(0.02, beta_1=0.5))
    far = np.abs(gan.generate(200, seed=drawn.seed(1)).mean(0) - X.mean(0)).max()
    gan.fit(np.tile(X, (150, 1)), batch_size=16, shuffle=False, verbose=0)
    made = gan.generate(200, seed=drawn.seed(1))
    assert far > 0.9
    assert np.abs(made.mean(0) - X.mean(0)).max() < 0.7
    assert made.std(0).min() > 0.03


@pytest.mark.skipif(BACKEND != "torch", reason="a discriminator of PyTorch's own")
def test_weights_out_of_reach():
    """A GAN learns with a discriminator whose weights nobody can read as constants."""
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    generator, _ = networks()
    discriminator = keras.layers.TorchModuleWrapper(module)
    gan = fg.models.GAN(generator, discriminator, "non_saturating", seed=drawn.seed(0))
    gan.compile(keras.optimizers.SGD(0.05))
    before = arrays(gan.trainable_variables)
    fit(gan, X)
    assert len(before) == len(generator.trainable_variables) + 4
    assert_moved(gan, before)
