"""The GANs that people want: other losses, heads, noise, samples in the loss, lazy penalties."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from compiling import XLA
from covering import chosen
from gan.games import LABELS, LATENT, X, networks
from gan.test_gradients import gradients
from routing.differentiate import array, arrays, differentiate


def train(gan, *data, optimizer="adam"):
    """Two epochs: every weight moves, and all numbers are finite."""
    gan.compile(optimizer, jit_compile=XLA or "auto")
    before = arrays(gan.trainable_variables)
    history = gan.fit(*data, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    assert np.isfinite(list(history.values())).all()
    for variable, old in zip(gan.trainable_variables, before, strict=True):
        assert not np.array_equal(array(variable), old), variable.path
    return history


@keras.saving.register_keras_serializable("tests")
def told_apart(real, fake, labels):
    """The discriminator of AC-GAN: which samples are real, and of which kind."""
    (real_score, real_kind), (fake_score, fake_kind) = real, fake
    kinds = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    scores = ops.softplus(-real_score) + ops.softplus(fake_score)
    return ops.mean(scores) + kinds(labels, real_kind) + kinds(labels, fake_kind)


@keras.saving.register_keras_serializable("tests")
def well_made(fake, labels):
    score, kind = fake
    kinds = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return ops.mean(ops.softplus(-score)) + kinds(labels, kind)


def conditional_networks():
    noise, kind = keras.Input((LATENT,)), keras.Input((), dtype="int32")
    hidden = layers.Concatenate()([noise, layers.CategoryEncoding(3, "one_hot")(kind)])
    generator = keras.Model([noise, kind], layers.Dense(2)(layers.Dense(4, "tanh")(hidden)))
    sample, kind = keras.Input((2,)), keras.Input((), dtype="int32")
    hidden = layers.Dense(4, "tanh")(sample)
    heads = [layers.Dense(1)(hidden), layers.Dense(3)(hidden)]
    return generator, keras.Model([sample, kind], heads)


@pytest.mark.full
def test_a_discriminator_of_two_heads(tmp_path):
    """AC-GAN: losses get all heads and the labels; the first head is the score."""
    gan = fg.models.GAN(
        *conditional_networks(),
        told_apart,
        generator_loss=well_made,
        penalties=["r1"],
        seed=drawn.seed(0),
    )
    train(gan, X, LABELS)
    gan.save(tmp_path / "gan.keras")
    again = keras.models.load_model(tmp_path / "gan.keras")
    assert again.losses_of_scores == (told_apart, well_made)
    np.testing.assert_array_equal(
        again.generate(3, seed=drawn.seed(1), labels=LABELS[:3]),
        gan.generate(3, seed=drawn.seed(1), labels=LABELS[:3]),
    )
    assert [part.shape for part in gan.predict((X, LABELS), verbose=0)] == [(16, 1), (16, 3)]


@keras.saving.register_keras_serializable("tests")
def quadratic(real, fake, real_samples, fake_samples):
    """The discriminator of GAN-QP (https://arxiv.org/abs/1811.07296)."""
    apart = ops.mean((real_samples - fake_samples) ** 2, axis=1, keepdims=True)
    gain = real - fake
    return -ops.mean(gain - gain**2 / (2 * 10 * apart + 1e-7))


@keras.saving.register_keras_serializable("tests")
def gap(real, fake):
    return ops.mean(real - fake)


def test_samples_in_the_loss():
    """GAN-QP: the loss sees samples; the discriminator's reaches the discriminator alone."""
    drawn.seed_keras(1)
    generator, discriminator = networks()
    gan = fg.models.GAN(generator, discriminator, quadratic, generator_loss=gap, seed=drawn.seed(0))
    found = gradients(gan).weights
    plain = fg.models.GAN(
        generator, discriminator, "wasserstein", generator_loss=gap, seed=drawn.seed(0)
    )
    # The generator's gradient is that of its own loss, whatever the other is.
    for mine, other in zip(found[:4], gradients(plain).weights[:4], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)
        assert mine.any()
    gan.compile("adam", run_eagerly=True)
    assert np.isfinite(gan.train_on_batch(X)).all()


def crossed(real, fake, real_samples):
    """Numbers of samples, (batch,), with scores, (batch, 1)."""
    return real - fake + ops.mean(real_samples, axis=1)


def test_samples_and_scores_are_not_crossed():
    gan = fg.models.GAN(*networks(), crossed, generator_loss=gap)
    gan.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match=r"take `score\[:, 0\]`.*shape \(16, 16\) for scores"):
        gan.train_on_batch(X)


@keras.saving.register_keras_serializable("tests")
def uniform(number, seed):
    return keras.random.uniform((number, 2, 2), -1.0, 1.0, seed=seed)


@keras.saving.register_keras_serializable("tests")
def shaken(samples):
    return samples + 0.1


@pytest.mark.full
def test_other_noise_and_augmentation(tmp_path):
    """Noise of another shape and law, and what happens to samples before they are judged."""
    generator = keras.Sequential([keras.Input((2, 2)), layers.Flatten(), layers.Dense(2)])
    gan = fg.models.GAN(
        generator,
        networks()[1],
        "non_saturating",
        noise=uniform,
        augment=shaken,
        ema_momentum=0.5,
        seed=1,
    )
    train(gan, X)
    made = gan.generate(5, seed=drawn.seed(1))
    assert made.shape == (5, 2)
    np.testing.assert_array_equal(made, gan.generate(5, seed=drawn.seed(1)))
    gan.save(tmp_path / "gan.keras")
    again = keras.models.load_model(tmp_path / "gan.keras")
    np.testing.assert_array_equal(again.generate(5, seed=drawn.seed(1)), made)
    shaped = fg.models.GAN(generator, networks()[1], latent_dim=(2, 2))
    assert shaped.latent_dim == (2, 2)
    assert shaped.generate(3).shape == (3, 2)
    with pytest.raises(ValueError, match="leave `latent_dim` out"):
        fg.models.GAN(generator, networks()[1], noise=uniform, latent_dim=4)


@pytest.mark.parametrize("at", ["real", "fake", "between"])
def test_a_penalty_at_parts_of_samples(at):
    """The slope of a dict is that of its parts side by side; none reaches the fake ones."""
    critic = networks()[1]
    fake = np.flip(X, 0).copy()

    def seed():
        return keras.random.SeedGenerator(drawn.seed(1))

    def of_parts(x):
        return critic(ops.concatenate([x["a"], x["b"]], axis=1))

    penalty = fg.losses.GradientPenalty(at, 0.7, slope=0.5)
    whole = differentiate(lambda x: penalty(critic, X, x, seed=seed()), fake, [critic])
    parts = [{"a": x[:, :1], "b": x[:, 1:]} for x in (X, fake)]
    found = array(penalty(of_parts, *parts, seed=seed()))
    np.testing.assert_allclose(found, whole.value, rtol=1e-5)
    assert not whole.inputs.any()
    assert whole.weights[0].any()


@pytest.mark.parametrize("at", chosen(["real", "fake", "between"], ["between"]))
def test_a_lazy_penalty(at):
    """At every third step three times as much, and nothing in between, compiled too."""
    weights = []
    for every in (1, 3):
        drawn.seed_keras(1)
        generator, discriminator = networks()
        discriminator.add(layers.BatchNormalization())
        penalty = fg.losses.GradientPenalty(at, 0.5, slope=0.2, every=every)
        gan = fg.models.GAN(generator, discriminator, penalties=[penalty], seed=drawn.seed(0))
        gan.compile(keras.optimizers.SGD(0.0), jit_compile=XLA or "auto")
        weights.append([gan.train_on_batch(X, return_dict=True)["penalty"] for _ in range(4)])
    always, lazy = weights
    assert min(always) > 0
    assert lazy[0] == pytest.approx(3 * always[0], rel=1e-3)
    assert lazy[1:3] == [0, 0]
    assert lazy[3] > 0


@pytest.mark.full
def test_turns_move_one_network():
    gan = fg.models.GAN(*networks(), "relativistic", penalties=["r1", "r2"], turns=True)
    gan.compile("adam", jit_compile=XLA or "auto")
    moved = []
    for _ in range(4):
        before = arrays(gan.trainable_variables)
        gan.train_on_batch(X)
        pairs = zip(arrays(gan.trainable_variables), before, strict=True)
        moved.append([not np.array_equal(*pair) for pair in pairs])
    # A relativistic loss does not depend on the last bias of the discriminator.
    of_discriminator = [False] * 4 + [True, True, True, False]
    of_generator = [True] * 4 + [False] * 4
    assert moved == [of_discriminator, of_generator] * 2


@pytest.mark.full
def test_turns_begin_anew_with_the_optimizer():
    """Compiled again after an odd number of batches, it is the discriminator's turn."""
    # Under the hinge loss the last bias of the discriminator may stay.
    gan = fg.models.GAN(*networks(), "non_saturating", turns=True)
    gan.compile("sgd", run_eagerly=True)
    gan.train_on_batch(X)
    gan.compile("sgd", run_eagerly=True)
    before = arrays(gan.trainable_variables)
    gan.train_on_batch(X)
    pairs = zip(arrays(gan.trainable_variables), before, strict=True)
    assert [not np.array_equal(*pair) for pair in pairs] == [False] * 4 + [True] * 4


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_generate_in_the_middle_of_training(momentum):
    """A callback sees each step's samples, on JAX too, where Keras keeps weights in its step.

    It holds the model itself: a callback's `self.model` would fetch the weights.
    """
    gan = fg.models.GAN(*networks(), ema_momentum=momentum, seed=drawn.seed(0))
    gan.compile(keras.optimizers.SGD(0.1))
    made = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: made.append(gan.generate(2, seed=drawn.seed(0)))
    )
    gan.fit(X, batch_size=8, shuffle=False, verbose=0, callbacks=[callback])
    assert not np.array_equal(*made)
    np.testing.assert_allclose(made[1], gan.generate(2, seed=drawn.seed(0)), rtol=1e-6)


@pytest.mark.one_backend
def test_old_idioms_are_told_apart():
    """What would silently never learn, or be ignored, is refused, with the way to do it."""
    generator, discriminator = networks()
    discriminator.trainable = False
    with pytest.raises(ValueError, match=r"discriminator would never learn.*nothing has to be"):
        fg.models.GAN(generator, discriminator)
    pooling = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.GlobalAveragePooling2D(), layers.Dense(1)]
    )
    small = keras.Sequential([keras.Input((LATENT,)), layers.Dense(49), layers.Reshape((7, 7, 1))])
    with pytest.raises(ValueError, match=r"generator of \(7, 7, 1\) and .* of \(8, 8, 1\)"):
        fg.models.GAN(small, pooling)
    generator, discriminator = networks()
    inputs = keras.Input((2,))
    hiding = keras.Model(inputs, layers.Lambda(lambda x: discriminator(x))(inputs))
    with pytest.raises(ValueError, match="weights of 'discriminator' would never learn: the Lam"):
        fg.models.GAN(generator, hiding)
    gan = fg.models.GAN(*networks())
    with pytest.raises(TypeError, match=r"one optimizer.*PerWeight.*Received: d_optimizer='adam'"):
        gan.compile(d_optimizer="adam", g_optimizer="adam")
    for name, value in {"augment": 3, "turns": "yes", "noise": 3}.items():
        with pytest.raises(TypeError, match=f"Received: {name}="):
            fg.models.GAN(*networks(), **{name: value})
    with pytest.raises(ValueError, match="generator_weight"):
        gan.compile("adam", loss_weights={"generator_loss": 2.0})
    with pytest.raises(ValueError, match=r"\(fake scores\) or \(real scores, fake scores\)"):
        fg.models.GAN(*networks(), (lambda a, b, c: a, gap))
    with pytest.raises(ValueError, match="generator_loss='gap'"):
        fg.models.GAN(*networks(), "hinge", generator_loss="gap")
    for arguments in ({"at": "here"}, {"weight": -1.0}, {"slope": -1.0}, {"every": 0}):
        (name,) = arguments
        with pytest.raises(ValueError, match=f"`{name}`"):
            fg.losses.GradientPenalty(**arguments)
    lazy = fg.losses.GradientPenalty(every=2)
    with pytest.raises(ValueError, match="needs to know the `step`"):
        lazy(discriminator, X, X)
