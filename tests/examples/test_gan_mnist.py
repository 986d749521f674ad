"""The DCGAN on MNIST, on images of its own: turns that are honest, runs that resume."""

import json

import keras
import numpy as np
import pytest

import drawn
import finegrain as fg

pytestmark = pytest.mark.full


@pytest.fixture
def mnist(example):
    return example("gan_mnist")


def test_images_and_digits_are_read(mnist, data):
    images, digits = mnist.read_mnist(data)
    assert images.shape == (192, 28, 28, 1)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[3, 10:14], 250 / 127.5 - 1, rtol=1e-6)
    assert digits[:11].tolist() == [*range(10), 0]


def networks():
    """Small ones, which start the same each time."""
    drawn.seed_keras(3)
    return (
        keras.Sequential(
            [
                keras.Input((32,)),
                keras.layers.Dense(3),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(2),
            ]
        ),
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)]),
    )


def weights(network):
    """The trainable ones, as one vector."""
    arrays = map(keras.ops.convert_to_numpy, network.trainable_variables)
    return np.concatenate([array.ravel() for array in arrays])


REAL = drawn.generator(0).normal(size=(8, 2)).astype("float32")


def test_a_turn_moves_its_player_alone(mnist):
    gan = fg.models.GAN(*networks(), seed=drawn.seed(0))
    for learner, other in (
        (gan.discriminator, gan.generator),
        (gan.generator, gan.discriminator),
    ):
        turn = mnist.Turn(gan, learner, seed=drawn.seed(1))
        turn.compile(keras.optimizers.SGD(0.1))
        before = [weights(learner), weights(other)]
        turn.train_on_batch(REAL)
        assert np.abs(weights(learner) - before[0]).max() > 1e-3
        np.testing.assert_array_equal(weights(other), before[1])
        mean = keras.ops.convert_to_numpy(gan.generator.non_trainable_variables[0])
        assert np.abs(mean).max() > 0  # the statistics of BatchNormalization go on


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_the_first_turn_is_the_step_of_the_single_loss(mnist, player):
    """From the same weights and noise a player's turn takes it where the single loss does."""
    gan = fg.models.GAN(*networks(), loss="non_saturating", seed=drawn.seed(5))
    gan.compile(keras.optimizers.SGD(0.5))
    gan.train_on_batch(REAL)
    turns = fg.models.GAN(*networks(), seed=drawn.seed(0))
    turn = mnist.Turn(turns, getattr(turns, player), seed=drawn.seed(5))
    turn.compile(keras.optimizers.SGD(0.5))
    turn.train_on_batch(REAL)
    for one, other in zip(
        getattr(gan, player).get_weights(), getattr(turns, player).get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_both_methods_run_score_and_resume(mnist, data, run, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "HELD_OUT", 64)
    monkeypatch.setattr(mnist, "EVERY", 1)
    folder = tmp_path / "out"
    monkeypatch.setattr(mnist, "seconds_per_step", lambda images, rounds: times)
    times = {"single": [1.0, 2.0, 4.0], "alternating": [2.0, 2.0, 16.0]}
    arguments = ["--data", data, "--seeds", 0, "--epochs", 1, "--images", 128, "--samples", 500]
    arguments += ["--folder", folder]
    run(mnist, *arguments)
    results = json.loads((folder / "results.json").read_text())
    assert [result["method"] for result in results["runs"]] == ["single", "alternating"]
    assert results["steps"] == 2
    assert results["step"] == {"single": 2.0, "alternating": 2.0}
    assert results["time_ratio"] == 0.5
    for result in results["runs"]:
        assert result["frechet_distance"] > 0
        assert sum(result["shares"]) == pytest.approx(1, abs=1e-3)
        kept = folder / f"{result['method']}-0"
        for name in ("epoch-01.png", "curves.png"):
            assert (kept / name).read_bytes().startswith(b"\x89PNG")
        gan = keras.models.load_model(kept / "gan.keras")
        np.testing.assert_allclose(
            gan.generate(64, seed=0),  # as the example does
            np.load(kept / "samples.npy"),
            rtol=1e-4,
            atol=1e-5,
        )
    assert (folder / "samples.png").exists()

    def trained(*arguments):
        raise AssertionError("a run that is there is not run again")

    monkeypatch.setattr(mnist, "trained", trained)
    run(mnist, *arguments, "--rounds", 0)
    again = json.loads((folder / "results.json").read_text())
    assert again["runs"] == results["runs"]
    assert again["accuracy"] == results["accuracy"]
    with pytest.raises(AssertionError, match="is not run again"):  # but other settings are
        run(mnist, *arguments, "--rounds", 0, "--epochs", 2)


def test_a_step_is_one_of_the_single_loss_or_both_turns(mnist, monkeypatch):
    """Both are timed in every round, once they are compiled."""
    steps = []

    class Model:
        def __init__(self, name):
            self.name = name

        def train_on_batch(self, batch):
            steps.append((self.name, len(batch)))

    monkeypatch.setattr(mnist, "single", lambda seed: Model("both"))
    monkeypatch.setattr(mnist, "alternating", lambda seed: (None, Model("one"), Model("other")))
    times = mnist.seconds_per_step(np.zeros((100, 2)), rounds=2)
    assert {name: len(own) for name, own in times.items()} == {"single": 2, "alternating": 2}
    assert steps == [("both", 64), ("one", 64), ("other", 64)] * 5


def test_missing_data_are_one_line_that_says_where_to_get_them(mnist, run, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        run(mnist, "--data", tmp_path / "nowhere")
    message = str(stopped.value)
    assert message.startswith(f"There is no {tmp_path / 'nowhere' / 'train-images-idx3-ubyte.gz'}")
    assert "https://" in message
    assert "--data" in message
    assert "\n" not in message
