"""A GAN learns for two epochs, with a file and another process in between."""

import keras
import numpy as np

from real import gan
from real.resumed import assert_same
from real.terminal import FULL


def test_two_epochs_with_a_file_in_between(terminal):
    """The same as in one go: losses, samples, weights, statistics and slots."""
    keras.utils.set_random_seed(2)
    model = gan.gan()
    at_start = gan.results(model, {})
    gan.fit(model, 0, 1)
    model.save(terminal.folder / "gan-1.keras")
    expected = gan.results(model, gan.fit(model, 1, 2))
    if FULL:
        terminal.python("-m", "real.gan", terminal.folder)
        found = dict(np.load(terminal.folder / "resumed.npz"))
    else:
        again = keras.models.load_model(terminal.folder / "gan-1.keras")
        found = gan.results(again, gan.fit(again, 1, 2))
    assert_same(found, expected, gan.RATE)
    samples = expected["samples"]
    assert samples.shape == (4, gan.SIDE, gan.SIDE, 1)
    assert np.abs(samples).max() <= 1
    assert np.std(samples, axis=0).max() > 0
    moved = [name for name in at_start if name.startswith("weight ")]
    assert moved
    for name in moved:
        assert np.isfinite(expected[name]).all()
        assert not np.array_equal(at_start[name], expected[name]), name
