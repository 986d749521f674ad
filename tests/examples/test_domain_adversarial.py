"""Features that do not tell domains apart."""

import json

import keras
import numpy as np
import pytest

import finegrain as fg

pytestmark = pytest.mark.full


@pytest.fixture
def adversarial(example):
    return example("domain_adversarial")


def test_a_slanted_line(adversarial):
    """The rows above the middle move to the right, those below to the left."""
    images = np.zeros((1, 8, 8, 1), "float32")
    images[0, :, 4] = 1
    slanted = adversarial.slanted(images)[0, :, :, 0]
    assert slanted.shape == (8, 8)
    centres = (slanted * np.arange(8)).sum(1) / slanted.sum(1)
    np.testing.assert_allclose(centres, 4 + 0.5 * (3.5 - np.arange(8)), atol=1e-6)


def test_the_sets_share_no_digit_image(adversarial):
    source, target, test, test_of_target = adversarial.domains()
    assert len(source.images) == len(target.images)
    assert len(test.images) == len(test_of_target.images) == adversarial.TEST
    seen = {image.tobytes() for image in source.images}
    assert not seen & {image.tobytes() for image in test.images}


def test_the_factor_grows(adversarial):
    layer = fg.layers.ReverseGradient(0.0)
    layer.build((None, 3))
    callback = adversarial.Grow(layer, strength=0.5, epochs=10)
    factors = []
    for epoch in range(10):
        callback.on_epoch_begin(epoch)
        factors.append(float(keras.ops.convert_to_numpy(layer.factor)))
    assert factors[0] == 0
    assert factors == sorted(factors)
    assert factors[5] == pytest.approx(0.5 * np.tanh(2.5), rel=1e-5)


def test_the_labels_of_the_target_are_not_used(adversarial, monkeypatch):
    source, target, *tests = adversarial.domains()
    few = [adversarial.Domain(part.images[:64], part.digits[:64]) for part in (source, target)]
    monkeypatch.setattr(adversarial, "domains", lambda: (*few, *tests))
    honest = adversarial.run(0, 1, 1.0)
    few[1] = adversarial.Domain(few[1].images, 9 - few[1].digits)
    assert adversarial.run(0, 1, 1.0) == honest


def test_the_table(adversarial, run, tmp_path, monkeypatch):
    """All methods over all seeds."""
    asked = []

    def result(seed, epochs, strength=0.0, *, on_target=False):
        asked.append((seed, epochs, strength, on_target))
        return {"source": 0.5, "target": 0.25}

    monkeypatch.setattr(adversarial, "run", result)
    run(adversarial, "--seeds", 0, 1, "--epochs", 3, "--strengths", 0.2, "--folder", tmp_path)
    assert asked == [(s, 3, f, t) for f, t in ((0, False), (0.2, False), (0, True)) for s in (0, 1)]
    names = list(json.loads((tmp_path / "results.json").read_text()))
    assert names == ["source only", "reverse_gradient, 0.2", "trained on target"]
