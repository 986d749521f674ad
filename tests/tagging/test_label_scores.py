"""The score of labels, one a word."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.tagging import Confusion, score_labels

pytestmark = pytest.mark.one_backend

GOLD = [["D", "N", "V"], ["N", "V", "V"]]
PREDICTED = [["D", "N", "N"], ["N", "V", "X"]]


def test_by_hand():
    score = score_labels(GOLD, PREDICTED)
    assert score.accuracy == pytest.approx(4 / 6)
    assert {name: (x.precision, x.recall, x.support) for name, x in score.labels.items()} == {
        "D": (1, 1, 1),
        "N": (2 / 3, 1, 2),
        "V": (1, 1 / 3, 3),
        "X": (0, 0, 0),
    }
    assert score.macro.f1 == pytest.approx((1 + 0.8 + 0.5 + 0) / 4)
    assert score.weighted.f1 == pytest.approx((1 * 1 + 2 * 0.8 + 3 * 0.5) / 6)
    assert score.confusions == (Confusion("V", "N", 1), Confusion("V", "X", 1))


def test_confusions_the_most_frequent_first():
    score = score_labels([["A", "B", "B", "A"]], [["B", "A", "A", "C"]])
    assert score.confusions == (("B", "A", 2), ("A", "B", 1), ("A", "C", 1))


pairs = st.lists(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("ABC"))), min_size=1)


@given(pairs)
def test_as_scikit_learn(sentences):
    metrics = pytest.importorskip("sklearn.metrics")
    gold, predicted = ([[pair[side] for pair in x] for x in sentences] for side in (0, 1))
    flat = [list(itertools.chain(*side)) for side in (gold, predicted)]
    if not flat[0]:
        return
    report = metrics.classification_report(*flat, output_dict=True, zero_division=0)
    score = score_labels(gold, predicted)
    assert score.accuracy == pytest.approx(metrics.accuracy_score(*flat))
    found = score.labels | {"macro avg": score.macro, "weighted avg": score.weighted}
    for name, x in found.items():
        row = report[name]
        expected = (row["precision"], row["recall"], row["f1-score"], row["support"])
        assert (x.precision, x.recall, x.f1, x.support) == pytest.approx(expected)


def test_nothing_to_score():
    score = score_labels([[]], [[]])
    assert (score.accuracy, score.macro.f1, score.weighted.f1, score.confusions) == (0, 0, 0, ())


def test_text_and_dictionary():
    score = score_labels(GOLD, PREDICTED)
    lines = str(score).splitlines()
    assert lines[0].split() == ["precision", "recall", "F1", "words"]
    assert lines[3].split() == ["V", "1.0000", "0.3333", "0.5000", "3"]
    assert lines[-1] == "accuracy 0.6667"
    values = json.loads(json.dumps(score.to_dict()))
    assert list(values) == ["accuracy", "macro", "weighted", "labels", "confusions"]
    assert values["confusions"][0] == {"gold": "V", "predicted": "N", "times": 1}


@pytest.mark.parametrize(
    ("gold", "predicted", "error", "message"),
    [
        ([["A"]], [], ValueError, "1 gold and 0 predicted sentences"),
        ([["A"]], [["A", "B"]], ValueError, "1 gold and 2 predicted tags in sentence 1"),
        ([["A"], "A"], [["A"], ["A"]], TypeError, "gold sentence 2 is 'A'"),
        ([["A"]], [[0]], TypeError, "predicted sentence 1 is"),
    ],
)
def test_refused(gold, predicted, error, message):
    with pytest.raises(error, match=message):
        score_labels(gold, predicted)
