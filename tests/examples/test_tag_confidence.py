"""What the example counts, over taggers that find what they are told."""

from types import SimpleNamespace

import numpy as np
import pytest

import drawn
from finegrain.tagging import Span

pytestmark = pytest.mark.one_backend


@pytest.fixture
def script(example):
    return example("tag_confidence")


def test_spans_are_right_from_end_to_end_and_of_their_type(script):
    """Of three found spans one is of another type."""
    corpus = [
        (["Ada", "met", "Bob"], ["B-PER", "O", "B-PER"]),
        (["it", "rained"], ["O", "O"]),
        (["in", "York"], ["O", "B-LOC"]),
    ]
    spans = {
        "Ada": [(Span("PER", 0, 1), 0.9), (Span("LOC", 2, 3), 0.4)],
        "it": [],
        "in": [(Span("LOC", 1, 2), 0.6)],
    }
    tagger = SimpleNamespace(
        analyze_many=lambda sentences: [SimpleNamespace(spans=spans[own[0]]) for own in sentences]
    )
    found, true = script.found_spans(tagger, corpus)
    assert found.probabilities.tolist() == [0.9, 0.4, 0.6]
    assert found.right.tolist() == [True, False, True]
    assert found.sentences.tolist() == [0, 0, 2]
    assert true == 3


def test_every_probability_is_in_one_bin(script):
    probabilities = np.array([0.0, 0.2, 0.5, 0.6, 0.9999, 1.0])
    assert np.sum(script.bins(probabilities), axis=0).tolist() == [1] * 6
    assert script.bins(probabilities)[0].tolist() == [True, True, False, False, False, False]
    assert script.bins(probabilities)[-1].tolist() == [False] * 4 + [True] * 2


def test_the_calibration_error_is_the_mean_distance(script):
    """Of three spans at 0.9 two are right, of one at 0.2 none: (3·(0.9 − 2/3) + 0.2) / 4."""
    error = script.calibration_error(np.array([0.9, 0.9, 0.9, 0.2]), np.array([1, 1, 0, 0]))
    assert error == pytest.approx((0.7 + 0.2) / 4)


def test_the_temperature_that_was_put_in_is_found(script):
    """Of spans that are as right as probable, log-odds three times too large."""
    random = drawn.generator(0)
    honest = random.uniform(0.05, 0.95, 20_000)
    right = random.uniform(size=len(honest)) < honest
    too_sure = script.softened(honest, 1 / 3)
    assert script.best_temperature(too_sure, right) == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(script.softened(too_sure, 3.0), honest, atol=1e-4)
