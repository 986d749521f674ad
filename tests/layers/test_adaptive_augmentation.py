"""AdaptiveAugmentation: how often it changes samples, how that moves, and in a GAN."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from compiling import JIT, XLA
from covering import chosen
from finegrain.layers import AdaptiveAugmentation
from gan.games import X, networks
from routing.differentiate import array, differentiate


@keras.saving.register_keras_serializable("tests")
def negative(x):
    return keras.tree.map_structure(lambda leaf: -leaf, x)


@keras.saving.register_keras_serializable("tests")
def mirrored(x):
    """Points on the other side of the first axis."""
    return x * ops.array([1.0, -1.0])


@keras.saving.register_keras_serializable("tests")
def tenfold(x):
    return keras.tree.map_structure(lambda leaf: 10 * leaf, x)


def test_samples_change_as_often_as_it_says():
    """Each augmentation independently, whole samples at a time, in training only."""
    layer = AdaptiveAugmentation([negative, tenfold], seed=drawn.seed(0))
    x = np.arange(1, 8001, dtype="float32").reshape(2000, 2, 2)
    np.testing.assert_array_equal(array(layer(x, training=True)), x)
    layer.probability.assign(0.3)
    factors = array(layer(x, training=True)) / x
    assert (factors == factors[:, :1, :1]).all()
    shares = [np.mean(factors[:, 0, 0] == factor) for factor in (1, -1, 10, -10)]
    np.testing.assert_allclose(shares, [0.49, 0.21, 0.21, 0.09], atol=0.04)
    np.testing.assert_array_equal(array(layer(x)), x)
    layer.probability.assign(1.0)
    np.testing.assert_array_equal(array(layer(x, training=True)), -10 * x)


def test_parts_of_a_sample_change_together():
    layer = AdaptiveAugmentation(negative, seed=drawn.seed(0))
    layer.probability.assign(0.5)
    x = {"a": np.ones((64, 3), "float32"), "b": np.ones((64,), "float32")}
    changed = layer(x, training=True)
    a, b = array(changed["a"]), array(changed["b"])
    assert {*b} == {-1, 1}
    np.testing.assert_array_equal(a, np.repeat(b[:, None], 3, axis=1))


def test_gradients_pass():
    layer = AdaptiveAugmentation(tenfold, seed=drawn.seed(0))
    layer.probability.assign(1.0)
    layer.build(None)
    result = differentiate(lambda x: ops.sum(layer(x, training=True)), X, [layer])
    np.testing.assert_array_equal(result.inputs, np.full_like(X, 10))


@pytest.mark.parametrize(
    ("scores", "moved"), [([1, 2, 3, 4], 0.04), ([1, 1, 1, -1], -0.04), ([-1, -1, -1, -1], -0.04)]
)
def test_the_probability_moves(scores, moved):
    """By a batch over the ramp, up or down, within [0, 1]."""
    layer = AdaptiveAugmentation(negative, target=0.6, ramp=100)
    scores = np.array(scores, "float32")[:, None]
    for start in (0.0, 0.5, 1.0):
        layer.probability.assign(start)
        layer.update(ops.convert_to_tensor(scores))
        assert array(layer.probability) == pytest.approx(np.clip(start + moved, 0, 1))


def test_it_is_saved(tmp_path):
    model = keras.Sequential([keras.Input((2,)), AdaptiveAugmentation([negative], 0.5, 100, 3)])
    model.layers[0].update(ops.ones((10, 1)))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").layers[0]
    assert (again.augmentations, again.target, again.ramp) == ([negative], 0.5, 100)
    assert array(again.probability) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "game",
    chosen(
        [("non_saturating", False), ("relativistic", False), ("relativistic", True)],
        [("relativistic", True)],
    ),
)
def test_in_a_gan(game, tmp_path):
    """The probability follows the scores, is reported, rests in evaluation, and is saved."""
    loss, turns = game
    generator, discriminator = networks()
    augment = AdaptiveAugmentation(mirrored, ramp=64, seed=drawn.seed(1))
    gan = fg.models.GAN(
        generator, discriminator, loss, augment=augment, turns=turns, seed=drawn.seed(0)
    )
    gan.compile(keras.optimizers.SGD(1e-6), jit_compile=XLA or "auto")
    # Generated points lie at 0, and the score of (x, y) is 10 tanh(x), or so much lower that only
    # differences tell.
    generator.layers[-1].kernel.assign(np.zeros((4, 2), "float32"))
    kernel = np.zeros((2, 4), "float32")
    kernel[0] = 1.0
    discriminator.layers[0].kernel.assign(kernel)
    discriminator.layers[-1].kernel.assign(np.full((4, 1), 2.5, "float32"))
    discriminator.layers[-1].bias.assign([0.0 if loss == "non_saturating" else -50.0])
    history = gan.fit(np.abs(X), batch_size=8, epochs=3, verbose=0).history
    assert history["augmentation"][0] > 0
    assert array(augment.probability) == pytest.approx(48 / 64)
    assert gan.evaluate(X, verbose=0, return_dict=True)["augmentation"] == pytest.approx(48 / 64)
    assert array(augment.probability) == pytest.approx(48 / 64)
    gan.save(tmp_path / "gan.keras")
    again = keras.models.load_model(tmp_path / "gan.keras")
    assert array(again.augment.probability) == pytest.approx(48 / 64)
    np.testing.assert_array_equal(array(again.augment.random.state), array(augment.random.state))


@pytest.mark.parametrize("jit", [JIT])
def test_layers_of_keras(jit):
    """Images flipped and brightened by Keras's own layers, in compiled training."""
    generator = keras.Sequential([keras.Input((3,)), layers.Dense(48), layers.Reshape((4, 4, 3))])
    discriminator = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(1)])
    augment = AdaptiveAugmentation(
        [layers.RandomFlip("horizontal", seed=1), layers.RandomBrightness(0.2, (0, 1), seed=2)],
        target=0.0,
        ramp=8,
    )
    gan = fg.models.GAN(generator, discriminator, "hinge", augment=augment, penalties=["r1"])
    gan.compile("sgd", jit_compile=jit)
    images = drawn.generator(0).uniform(size=(8, 4, 4, 3)).astype("float32")
    before = [array(variable).copy() for variable in gan.trainable_variables]
    history = gan.fit(images, batch_size=4, epochs=2, verbose=0).history
    assert np.isfinite(list(history.values())).all()
    assert any(
        not np.array_equal(array(new), old)
        for new, old in zip(gan.generator.trainable_variables, before, strict=False)
    )


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"augmentations": []}, ValueError, r"at least one layer.* Received: augmentations=\[\]"),
        ({"augmentations": 3}, TypeError, "should be layers or functions of samples"),
        ({"target": 1.0}, ValueError, "below 1. Received: target=1.0"),
        ({"target": -0.5}, ValueError, "Received: target=-0.5"),
        ({"ramp": 0}, ValueError, "above 0. Received: ramp=0"),
        ({"ramp": "fast"}, TypeError, "Received: ramp='fast'"),
    ],
)
def test_wrong_arguments(arguments, kind, message):
    with pytest.raises(kind, match=message):
        AdaptiveAugmentation(**{"augmentations": negative, **arguments})


@pytest.mark.parametrize("changed", [lambda x: x[:, :1], lambda x: [x]], ids=["shape", "structure"])
def test_samples_of_another_kind(changed):
    layer = AdaptiveAugmentation(changed)
    with pytest.raises(ValueError, match="should return samples like those that it is given"):
        layer(X, training=True)
