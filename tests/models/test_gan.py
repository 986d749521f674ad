"""A GAN from one loss."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import finegrain as fg

X = np.random.default_rng(0).normal(size=(32, 2)).astype("float32") * 0.2 + [1.5, -1.0]
X = X.astype("float32")


def networks(labelled=False):
    z, x = keras.Input((3,)), keras.Input((2,))
    if not labelled:
        generator = keras.Model(z, layers.Dense(2)(layers.Dense(8, "tanh")(z)))
        return generator, keras.Model(x, layers.Dense(1)(layers.Dense(8, "tanh")(x)))
    a, b = keras.Input((1,)), keras.Input((1,))
    generator = keras.Model([z, a], layers.Dense(2)(ops.concatenate([z, a], -1)))
    return generator, keras.Model([x, b], layers.Dense(1)(ops.concatenate([x, b], -1)))


@pytest.mark.parametrize("loss", ["hinge", "non_saturating", "least_squares", "wasserstein"])
@pytest.mark.parametrize("penalty", [None, "wgan_gp", ("r1", 1.0)])
def test_trains(loss, penalty):
    """All weights move and stay finite; the metrics are reported, in `evaluate` too."""
    gan = fg.models.GAN(*networks(), loss=loss, gradient_penalty=penalty, seed=0)
    gan.compile("sgd")
    before = gan.get_weights()
    history = gan.fit(X, batch_size=16, verbose=0)
    assert set(history.history) >= {"generator_loss", "discriminator_loss", "real_score"}
    for weight, old, new in zip(gan.weights, before, gan.get_weights(), strict=True):
        assert np.isfinite(new).all()
        # The last bias's gradients of real and fake scores cancel where the loss is linear.
        if weight.trainable and not (loss in ("wasserstein", "hinge") and "bias" in weight.path):
            assert not np.array_equal(old, new), weight.path
    assert np.isfinite(gan.evaluate(X, verbose=0)).all()


def test_routings_agree():
    """Frozen and subtraction take the same steps."""
    ends = []
    for routing in ("frozen", "subtraction"):
        keras.utils.set_random_seed(1)
        gan = fg.models.GAN(*networks(), routing=routing, seed=0)
        gan.compile(keras.optimizers.SGD(0.1))
        gan.fit(X, batch_size=16, shuffle=False, verbose=0)
        ends.append(gan.get_weights())
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_weight_and_rule(optimizer):
    """With SGD λ is the generator's rate; with Adam only a rule is."""
    ends = []
    for weight, multiplier in ((0.1, 1.0), (1.0, 0.1), (1.0, 1.0)):
        keras.utils.set_random_seed(1)
        generator, discriminator = networks()
        gan = fg.models.GAN(generator, discriminator, generator_weight=weight, seed=0)
        rule = fg.Rule(generator, learning_rate_multiplier=multiplier)
        inner = getattr(keras.optimizers, optimizer)(0.01)
        gan.compile(fg.PerWeight(inner, [rule]))
        gan.fit(X, batch_size=8, epochs=2, shuffle=False, verbose=0)
        ends.append(gan.generator.get_weights()[0])
    by_weight, by_rule, plain = ends
    if optimizer == "SGD":
        np.testing.assert_allclose(by_weight, by_rule, rtol=1e-4, atol=1e-6)
    else:
        np.testing.assert_allclose(by_weight, plain, rtol=1e-2, atol=1e-4)
        assert np.abs(by_rule - plain).max() > 1e-2


def test_labels():
    gan = fg.models.GAN(*networks(labelled=True), seed=0)
    gan.compile("adam")
    labels = np.ones((32, 1), "float32")
    gan.fit(X, labels, verbose=0)
    gan.fit((X, labels), verbose=0)
    assert gan.generate(4, seed=1, labels=np.ones((4, 1), "float32")).shape == (4, 2)


def test_saves_and_loads(tmp_path):
    gan = fg.models.GAN(*networks(), ema_momentum=0.9, gradient_penalty="r1", seed=0)
    gan.compile("adam")
    gan.fit(X, verbose=0)
    gan.save(tmp_path / "gan.keras")
    again = keras.models.load_model(tmp_path / "gan.keras")
    np.testing.assert_array_equal(gan.generate(5, seed=3), again.generate(5, seed=3))
    again.fit(X, verbose=0)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="Received: loss="):
        fg.models.GAN(*networks(), loss="unknown")
    with pytest.raises(ValueError, match="Received: gradient_penalty="):
        fg.models.GAN(*networks(), gradient_penalty="unknown")
    with pytest.raises(TypeError, match="Received: generator="):
        fg.models.GAN(3, networks()[1])


def test_the_step_calls_the_generator_once():
    """While it is traced, or run: one forward pass serves both losses."""
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            calls.append(1)
            return x

    generator = keras.Sequential([keras.Input((3,)), layers.Dense(2), Counted()])
    gan = fg.models.GAN(generator, networks()[1], seed=0)
    gan.compile("sgd")
    calls.clear()
    gan.fit(X, batch_size=32, verbose=0)
    assert len(calls) == 1
