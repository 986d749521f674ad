"""The gradients of a GAN's one loss: those of its two aims, to the weights each is for."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from gan.games import LATENT, Oracle, X, networks
from oracle import finite_differences
from routing.differentiate import array, arrays, differentiate

LOSSES = [
    "hinge",
    "non_saturating",
    "least_squares",
    "wasserstein",
    "relativistic",
    "relativistic_average",
]
GAMES = [(loss, penalty) for loss in LOSSES for penalty in (None, "wgan_gp", "r1", "r2")]
# Each loss, each penalty.
SOME_GAMES = [
    ("non_saturating", "r1"),
    ("least_squares", None),
    ("hinge", "r1"),
    ("wasserstein", "wgan_gp"),
    ("relativistic", "r2"),
    ("relativistic_average", None),
]


def gradients(gan, x=X, y=None):
    """The loss and its gradients, as in a training step."""

    def loss(x):
        return gan.compute_loss(x, y, gan(x, training=True), training=True)

    return differentiate(loss, x, [gan])


@pytest.mark.parametrize(
    ("loss", "penalty"),
    [game if game in SOME_GAMES else pytest.param(*game, marks=pytest.mark.full) for game in GAMES],
)
def test_each_network_has_the_gradient_of_its_own_loss(loss, penalty):
    """Both losses, the penalty's second derivatives and λ against differences in float64."""
    gan = fg.models.GAN(
        *networks(),
        loss=loss,
        penalties=[(penalty, 0.7)] if penalty else [],
        generator_weight=0.3,
        seed=drawn.seed(5),
    )
    for variable in gan.trainable_variables:  # hinge losses on both sides of the kink
        variable.assign(2 * variable)
    made, judged = (
        [value.astype("float64") for value in arrays(network.trainable_variables)]
        for network in (gan.generator, gan.discriminator)
    )
    oracle = Oracle(loss, penalty, 0.7, seed=drawn.seed(5))
    fake = oracle.fake(made)
    expected = [
        *(
            0.3 * g
            for g in finite_differences(
                lambda *w: oracle.of_generator(*w, discriminator=judged), *made
            )
        ),
        *finite_differences(lambda *w: oracle.of_discriminator(*w, fake=fake), *judged),
    ]
    value = oracle.of_discriminator(*judged, fake=fake)
    value += 0.3 * oracle.of_generator(*made, discriminator=judged)
    result = gradients(gan)
    np.testing.assert_allclose(result.value, value, rtol=1e-5)
    for found, gradient in zip(result.weights, expected, strict=True):
        np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=2e-6)


@pytest.mark.full
def test_reports():
    """Both losses and mean scores, each sample with the same weight, in batches of any size."""
    gan = fg.models.GAN(*networks(), seed=drawn.seed(5))
    gan.compile("sgd", run_eagerly=True)
    found = gan.evaluate(X, batch_size=16, return_dict=True, verbose=0)
    oracle = Oracle("hinge", None, 0.0, seed=drawn.seed(5))
    made, judged = (arrays(part.trainable_variables) for part in (gan.generator, gan.discriminator))
    fake = oracle.fake(made)
    d, g = (
        oracle.of_discriminator(*judged, fake=fake),
        oracle.of_generator(*made, discriminator=judged),
    )
    expected = {
        "loss": d + g,
        "discriminator_loss": d,
        "generator_loss": g,
        "real_score": oracle.forward(judged, X).mean(),
        "fake_score": oracle.forward(judged, fake).mean(),
    }
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    uneven = gan.evaluate(X, batch_size=15, return_dict=True, verbose=0)
    assert uneven["real_score"] == pytest.approx(expected["real_score"], rel=1e-4)


def test_a_generator_without_weight_stays():
    gan = fg.models.GAN(*networks(), generator_weight=0, seed=drawn.seed(0))
    result = gradients(gan)
    assert not any(gradient.any() for gradient in result.weights[:4])
    assert all(gradient.any() for gradient in result.weights[4:6])


def precise_dense(units, activation=None):
    """`Dense`, whose product Keras 3.15 rounds to float32 on PyTorch, by way of `einsum`."""
    return layers.EinsumDense("ab,bc->ac", units, activation=activation, bias_axes="c")


def test_precise_in_float64():
    """With float64 as Keras's float type, nothing is rounded to float32 on the way."""
    if keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless told at its start")
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    gan = fg.models.GAN(*networks(precise_dense), penalties=[("wgan_gp", 0.1)], seed=drawn.seed(5))
    made, judged = (arrays(part.trainable_variables) for part in (gan.generator, gan.discriminator))
    oracle = Oracle("hinge", "wgan_gp", 0.1, seed=drawn.seed(5))
    fake = oracle.fake(made)
    expected = finite_differences(lambda *w: oracle.of_discriminator(*w, fake=fake), *judged)
    for found, gradient in zip(
        gradients(gan, X.astype("float64")).weights[4:], expected, strict=True
    ):
        np.testing.assert_allclose(found, gradient, rtol=1e-7, atol=1e-8)


class Spread(keras.regularizers.Regularizer):
    """Scaled mean square of what it is given."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):
        return self.scale * ops.mean(ops.cast(x, "float32") ** 2)


@pytest.mark.parametrize("training", [True, False])
def test_losses_of_layers_count_once(training):
    """Those on weights once; those on outputs for real, fake and generated samples once each."""
    generator = keras.Sequential(
        [keras.Input((LATENT,)), layers.Dense(2, activity_regularizer=Spread(3.0))]
    )
    discriminator = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(1, kernel_regularizer=Spread(5.0), activity_regularizer=Spread(7.0)),
        ]
    )
    gan = fg.models.GAN(
        generator,
        discriminator,
        loss="wasserstein",
        penalties=[("r1", 2.0)],
        seed=drawn.seed(5),
    )
    gan.compile("sgd", run_eagerly=True)
    step = gan.train_on_batch if training else gan.test_on_batch
    before = arrays(gan.trainable_variables)
    loss = step(X, return_dict=True)["loss"]
    noise = Oracle("hinge", None, 0.0, seed=drawn.seed(5)).noise
    fake = noise @ before[0] + before[1]
    real_score, fake_score = (samples @ before[2] + before[3] for samples in (X, fake))
    expected = fake_score.mean() - real_score.mean() - fake_score.mean()
    expected += (before[2] ** 2).sum()  # the penalty: 2 / 2 · |slope|²
    expected += 5.0 * (before[2] ** 2).mean()
    # Keras divides losses on outputs by the batch size.
    expected += (3.0 * (fake**2).mean() + 7.0 * (real_score**2).mean()) / len(X)
    expected += 7.0 * (fake_score**2).mean() / len(X)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_losses_of_layers_move_their_own_network():
    """What the discriminator adds for fake samples moves it, and not who made them."""
    generator, _ = networks()
    judge = layers.Dense(1, activity_regularizer=Spread(7.0))
    discriminator = keras.Sequential([keras.Input((2,)), judge])
    gan = fg.models.GAN(generator, discriminator, "wasserstein", 0.0, seed=drawn.seed(5))
    result = gradients(gan)
    assert not any(gradient.any() for gradient in result.weights[:4])
    kernel, bias = arrays(discriminator.variables)
    fake = Oracle("wasserstein", None, 0.0, seed=drawn.seed(5)).fake(
        [value.astype("float64") for value in arrays(generator.trainable_variables)]
    )

    def loss(kernel, bias):
        scores = [samples @ kernel + bias for samples in (X.astype("float64"), fake)]
        added = sum((score**2).mean() for score in scores) / len(X)
        return scores[1].mean() - scores[0].mean() + 7.0 * added

    expected = finite_differences(loss, kernel.astype("float64"), bias.astype("float64"))
    for found, slope in zip(result.weights[4:], expected, strict=True):
        np.testing.assert_allclose(found, slope, rtol=1e-3, atol=1e-5)


@pytest.mark.full
def test_statistics_are_updated_once_by_each_call():
    """The generator's by its one call, the discriminator's by those on real and fake samples."""
    generator = keras.Sequential(
        [keras.Input((LATENT,)), layers.BatchNormalization(momentum=0.5), layers.Dense(2)]
    )
    discriminator = keras.Sequential(
        [keras.Input((2,)), layers.BatchNormalization(momentum=0.5), layers.Dense(1)]
    )
    gan = fg.models.GAN(generator, discriminator, seed=drawn.seed(5))
    gradients(gan)
    noise = Oracle("hinge", None, 0.0, seed=drawn.seed(5)).noise
    np.testing.assert_allclose(
        array(generator.layers[0].moving_mean), noise.mean(0) / 2, rtol=1e-4, atol=1e-6
    )
    normal = (noise - noise.mean(0)) / np.sqrt(noise.var(0) + 1e-3)
    kernel, bias = arrays(generator.layers[1].variables)
    fake = (normal @ kernel + bias).mean(0)
    expected = 0.25 * X.mean(0) + 0.5 * fake
    found = array(discriminator.layers[0].moving_mean)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_the_generators_loss_moves_no_discriminator_with_dropout():
    """One mask for both losses, and nothing of one is left over in the other's weights."""
    generator, _ = networks()
    discriminator = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(8, "tanh"),
            layers.Dropout(0.5, seed=drawn.seed(3)),
            layers.Dense(1),
        ]
    )
    seed = discriminator.layers[1].seed_generator.state
    first, found = array(seed).copy(), []
    for weight in (0.0, 1.0):
        gan = fg.models.GAN(generator, discriminator, generator_weight=weight, seed=drawn.seed(5))
        seed.assign(first)
        found.append(gradients(gan).weights)
    assert any(gradient.any() for gradient in found[1][:4])
    for without, whole in zip(found[0][4:], found[1][4:], strict=True):
        np.testing.assert_allclose(whole, without, rtol=1e-5, atol=1e-6)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:A layer assigns to weights that are trained:UserWarning")
def test_spectral_normalization():
    """Keras's own: the score is that of kernels divided by σ, which has a gradient."""
    generator, _ = networks()
    layer = layers.SpectralNormalization(layers.Dense(1, use_bias=False))
    discriminator = keras.Sequential([keras.Input((2,)), layer])
    gan = fg.models.GAN(generator, discriminator, loss="wasserstein", seed=drawn.seed(5))
    kernel = np.array([[0.6], [-0.8]], "float32")
    layer.layer.kernel.assign(3 * kernel)
    result = gradients(gan)
    made = arrays(generator.trainable_variables)
    fake = Oracle("wasserstein", None, 0.0, seed=drawn.seed(5)).fake(made)
    # Of one column σ is the norm, and a direction has no slope along itself.
    away = np.eye(2) - kernel @ kernel.T
    expected = away @ (fake.mean(0) - X.mean(0))[:, None] / 3
    np.testing.assert_allclose(result.weights[-1], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(array(layer.layer.kernel), 3 * kernel, rtol=1e-6)
    oracle = Oracle("wasserstein", None, 0.0, seed=drawn.seed(5))
    forward, oracle.forward = oracle.forward, None
    slopes = finite_differences(lambda *w: -(forward(w, oracle.noise) @ kernel).mean(), *made)
    for found, slope in zip(result.weights[:4], slopes, strict=True):
        np.testing.assert_allclose(found, slope, rtol=1e-3, atol=1e-5)
