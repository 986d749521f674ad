"""A BERT is fine-tuned under rules, saved, and goes on in another process."""

import importlib.util

import keras
import numpy as np
import pytest

from real.resumed import assert_same
from real.terminal import BACKEND, FULL

pytestmark = [
    pytest.mark.skipif(not importlib.util.find_spec("keras_hub"), reason="needs keras_hub"),
    pytest.mark.skipif(
        BACKEND != "torch" and not FULL, reason="others compile long: with FINEGRAIN_REAL=full"
    ),
]


@pytest.fixture(scope="module")
def trained(terminal):
    """The folder with files of two epochs in one go, and of the second epoch after a file."""
    from real import bert  # KerasHub takes seconds, and only the tests of this file need it

    folder = terminal.folder
    keras.utils.set_random_seed(5)
    model = bert.tagger([bert.HELD])
    at_start = bert.to_array(model.get_layer("token_embedding").embeddings)
    description = str(model.optimizer.describe(model))
    histories = [bert.fit(model, 0, 1)]
    model.save(folder / "bert-1.keras")
    model.save_weights(folder / "bert-1.weights.h5")
    histories.append(bert.fit(model, 1, 2))
    bert.record(folder / "uninterrupted.npz", model)
    at_end = bert.to_array(model.get_layer("token_embedding").embeddings)
    printed = terminal.python("-m", "real.bert", folder)
    return folder, histories, (at_start, at_end), (description, printed)


def test_it_learns(trained):
    _, histories, (at_start, at_end), _ = trained
    first, second = (history["loss"][0] for history in histories)
    assert np.isfinite(second)
    assert second < first
    np.testing.assert_array_equal(at_start, at_end)


def test_the_resumed_run_is_the_uninterrupted_one(trained):
    """All weights and all slots."""
    from real import bert

    folder, *_ = trained
    with (
        np.load(folder / "uninterrupted.npz") as expected,
        np.load(folder / "resumed.npz") as found,
    ):
        assert sum("momentum" in name for name in found) > 10
        assert_same(found, expected, bert.RATE)


def test_the_description_stays(trained):
    *_, (description, printed) = trained
    assert "token_embedding" in description
    assert description in printed


def test_what_is_released_begins_as_new(trained):
    """The first step of Adam is the learning rate itself, whatever others have counted."""
    folder, *_ = trained
    with np.load(folder / "unfrozen.npz") as steps:
        released = next(steps[name] for name in steps if "token_embedding" in name)
        others = [np.abs(steps[name]).max() for name in steps if "token_embedding" not in name]
    moved = np.abs(released[released != 0])
    assert moved.size > 100
    assert np.median(moved) == pytest.approx(1.0, rel=0.02)
    assert all(step > 0 for step in others)
