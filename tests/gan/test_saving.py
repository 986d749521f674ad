"""A GAN that is saved goes on as if nothing had happened, on another backend too."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from compiling import XLA
from gan.games import LABELS, LATENT, X, conditional, labelled_networks, networks, neutral_noise
from routing.differentiate import array, arrays

TRAIN = """
import sys
from unittest import mock
import keras, numpy as np
import drawn
from gan.games import LABELS, X, conditional, neutral_noise

drawn.seed_keras(7)
gan = conditional(seed=drawn.seed(0))
with mock.patch("keras.random.normal", neutral_noise):  # the backends' own differ
    gan.fit(X, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0)
    gan.save(f"{sys.argv[1]}/gan.keras")
    made = gan.generate(4, seed=drawn.seed(1), labels=LABELS[:4])
    losses = [gan.train_on_batch(X, LABELS) for _ in range(3)]
weights = [keras.ops.convert_to_numpy(weight) for weight in gan.weights]
np.savez(f"{sys.argv[1]}/results.npz", made, np.array(losses), *weights)
"""


def fit(gan, epochs=1):
    return gan.fit(X, LABELS, batch_size=8, epochs=epochs, shuffle=False, verbose=0).history


def whole_gan():
    """With all that has a state: statistics, dropout, averages, noise, slots, rules."""
    generator, discriminator = labelled_networks(rate=0.3)
    gan = fg.models.GAN(generator, discriminator, penalties=["wgan_gp"], ema_momentum=0.8)
    rule = fg.Rule(generator, learning_rate_multiplier=0.5)
    gan.compile(fg.PerWeight(keras.optimizers.Adam(0.01), [rule]), jit_compile=XLA or "auto")
    return gan


@pytest.mark.full
def test_resumes_to_the_bit(tmp_path):
    """Two epochs, or one, a file, and another: the same, noise and dropout masks included."""
    drawn.seed_keras(1)
    gan = whole_gan()
    fit(gan)
    gan.save(tmp_path / "gan.keras")
    gan.save_weights(tmp_path / "gan.weights.h5")
    expected = fit(gan), arrays(gan.weights), gan.generate(5, seed=drawn.seed(2), labels=LABELS[:5])
    again = keras.models.load_model(tmp_path / "gan.keras")
    assert fit(again) == expected[0]
    for weight, value in zip(again.weights, expected[1], strict=True):
        np.testing.assert_array_equal(array(weight), value, err_msg=weight.path)
    np.testing.assert_array_equal(
        again.generate(5, seed=drawn.seed(2), labels=LABELS[:5]), expected[2]
    )
    other = whole_gan()
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "gan.weights.h5")
    saved = keras.models.load_model(tmp_path / "gan.keras")
    for mine, value in zip(other.variables, arrays(saved.variables), strict=True):
        np.testing.assert_array_equal(array(mine), value, err_msg=mine.path)


@pytest.mark.full
@pytest.mark.parametrize("other", ["jax", "torch", "tensorflow"])
def test_goes_on_from_another_backend(other, tmp_path, monkeypatch, elsewhere):
    """The same samples, the next three losses, and the weights they lead to."""
    elsewhere(other, TRAIN, tmp_path)
    made, losses, *weights = np.load(tmp_path / "results.npz").values()
    monkeypatch.setattr(keras.random, "normal", neutral_noise)
    gan = keras.models.load_model(tmp_path / "gan.keras")
    gan.jit_compile = False  # A model from JAX says true, and PyTorch's compiler takes a minute.
    found = gan.generate(4, seed=drawn.seed(1), labels=LABELS[:4])
    np.testing.assert_allclose(found, made, rtol=1e-4, atol=1e-5)
    again = [gan.train_on_batch(X, LABELS) for _ in range(3)]
    np.testing.assert_allclose(again, losses, rtol=1e-3, atol=1e-4)
    for weight, value in zip(gan.weights, weights, strict=True):
        np.testing.assert_allclose(array(weight), value, rtol=0, atol=1e-3, err_msg=weight.path)


@keras.saving.register_keras_serializable("tests")
def fooled(real, fake):
    return ops.softplus(-real) + ops.softplus(fake)


@keras.saving.register_keras_serializable("tests")
def fooling(fake):
    return ops.softplus(-fake)


def unregistered(fake):
    return ops.softplus(-fake)


@pytest.mark.full
def test_own_losses(tmp_path):
    """A pair of functions is what its name is, comes back from its file, and is asked for."""
    file = tmp_path / "gan.keras"
    losses = []
    for loss in ("non_saturating", [fooled, fooling], (fooled, unregistered)):
        drawn.seed_keras(1)
        gan = fg.models.GAN(*networks(), loss=loss, seed=drawn.seed(0))
        losses.append(float(array(gan.compute_loss(X))))
        if loss[1] is unregistered:
            with pytest.raises(UserWarning, match="'unregistered' is saved by name only"):
                gan.save(file)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The function")
            gan.save(file)
        if loss[1] is fooling:
            assert keras.models.load_model(file).loss_pair == (fooled, fooling)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    with pytest.raises(TypeError, match="Could not locate function 'unregistered'"):
        keras.models.load_model(file)
    again = keras.models.load_model(file, custom_objects={"unregistered": unregistered})
    assert again.loss_pair == (fooled, unregistered)


def test_config_makes_an_equal_model():
    """All arguments come back; an old file's model without seeds loads; `summary` prints."""
    gan = fg.models.GAN(
        *networks(),
        loss="wasserstein",
        generator_weight=0.5,
        penalties=[("r1", 2.0), fg.losses.GradientPenalty("fake", every=4)],
        ema_momentum=0.9,
        seed=drawn.seed(3),
        name="game",
    )
    again = fg.models.GAN.from_config(gan.get_config())
    mine, other = gan.get_config(), again.get_config()
    for key in set(mine) - {"generator", "discriminator"}:
        assert mine[key] == other[key], key
    lines = []
    again.summary(print_fn=lines.append)
    assert "generator" in "".join(lines)
    with pytest.raises(ValueError, match="Expected 1 seeds"):
        again.load_own_variables({"seed_0": [0, 0], "seed_1": [0, 0]})
    state = array(again.random.state).copy()
    again.load_own_variables({})
    np.testing.assert_array_equal(array(again.random.state), state)


@pytest.mark.full
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_average_of_the_generator(momentum):
    """After n steps it holds the weights after each, the last included, from the first on."""
    gan = fg.models.GAN(*networks(), ema_momentum=momentum, seed=drawn.seed(0))
    gan.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    expected = arrays(gan.generator.weights)
    plain = fg.models.GAN(gan.generator, gan.discriminator)
    np.testing.assert_allclose(
        gan.generate(4, seed=drawn.seed(1)), plain.generate(4, seed=drawn.seed(1)), rtol=1e-6
    )
    for _ in range(3):
        gan.train_on_batch(X)
        now = arrays(gan.generator.weights)
        expected = [momentum * a + (1 - momentum) * w for a, w in zip(expected, now, strict=True)]
        gan.evaluate(X, verbose=0)
    made = gan.generate(4, seed=drawn.seed(1))
    for weight, value in zip(gan.generator.weights, expected, strict=True):
        weight.assign(value)
    np.testing.assert_allclose(made, plain.generate(4, seed=drawn.seed(1)), rtol=1e-4, atol=1e-5)


def test_generate():
    """A seed decides; batches change nothing; labels are as many as samples."""
    gan = fg.models.GAN(*networks())
    np.testing.assert_array_equal(
        gan.generate(5, seed=drawn.seed(1)), gan.generate(5, seed=drawn.seed(1))
    )
    assert not np.array_equal(gan.generate(5), gan.generate(5))
    in_parts = gan.generate(5, seed=drawn.seed(1), batch_size=2)
    at_once = gan.generate(5, seed=drawn.seed(1))
    np.testing.assert_allclose(in_parts, at_once, rtol=1e-6, atol=1e-6)
    assert in_parts.dtype == "float32"
    for n in (0, True, 2.0):
        with pytest.raises(ValueError, match="Received: n="):
            gan.generate(n)
    with pytest.raises(ValueError, match="Received: batch_size=-1"):
        gan.generate(3, batch_size=-1)
    with pytest.raises(ValueError, match="take samples alone"):
        gan.generate(1, labels=[0])
    labelled = conditional()
    with pytest.raises(ValueError, match="label for each of 3 samples"):
        labelled.generate(3, labels=[0, 1])
    with pytest.raises(ValueError, match="take labels, too"):
        labelled.generate(3)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "unknown"}, "Received: loss='unknown'"),
        ({"loss": None}, "Received: loss=None"),
        ({"loss": abs}, "a pair of functions.*Received: loss=<built-in function abs>"),
        ({"loss": (fooled,)}, "pair of functions"),
        ({"penalties": ["unknown"]}, "Received: 'unknown'"),
        ({"penalties": [("r1", -1.0)]}, "Received: penalty 'r1'=-1.0"),
        ({"penalties": 3}, "should be a list. Received: penalties=3"),
        ({"routing": "mixed"}, "Received: routing='mixed'"),
        ({"ema_momentum": 1.0}, "Received: ema_momentum=1.0"),
        ({"generator_weight": -0.5}, "Received: generator_weight=-0.5"),
        ({"latent_dim": 7}, "`latent_dim` should be 3"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fg.models.GAN(*networks(), **arguments)


@pytest.mark.one_backend
def test_wrong_networks():
    generator, discriminator = networks()
    with pytest.raises(TypeError, match="Received: generator=3"):
        fg.models.GAN(3, discriminator)
    with pytest.raises(ValueError, match="Nobody asks the generator for what its labels say"):
        fg.models.GAN(labelled_networks()[0], discriminator)
    with pytest.raises(ValueError, match="give `latent_dim`"):
        fg.models.GAN(keras.Sequential([layers.Dense(2)]), discriminator)
    with pytest.raises(TypeError, match="`latent_dim` should be an integer"):
        fg.models.GAN(keras.Sequential([layers.Dense(2)]), discriminator, latent_dim=2.5)
    assert fg.models.GAN(generator, discriminator).latent_dim == LATENT


def test_wrong_use():
    """What Keras would take and a GAN would ignore is refused, with the way to do it."""
    gan = fg.models.GAN(*networks())
    for name, value in {"loss": "mse", "metrics": ["mae"], "weighted_metrics": ["mae"]}.items():
        with pytest.raises(ValueError, match=f"leave `{name}` out of `compile`"):
            gan.compile("sgd", **{name: value})
    gan.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="no `sample_weight`"):
        gan.train_on_batch(X, sample_weight=np.ones(len(X)))
    with pytest.raises(ValueError, match="take samples alone: fit without labels"):
        gan.train_on_batch(X, LABELS)
    with pytest.raises(ValueError, match="discriminator takes samples alone"):
        gan.predict((X, LABELS), verbose=0)
    labelled = conditional()
    labelled.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="take labels, too: fit on"):
        labelled.train_on_batch(X)
