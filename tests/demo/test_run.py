"""The parts of the demo: differences of F1 and their intervals, the best run, the picture."""

import sys

import numpy as np
import pytest

import drawn
from finegrain.demo.manual import ManualCorpus
from finegrain.demo.run import DemoResult, Run, _picture, f1_difference
from finegrain.tagging.scores import SegmentationScore

pytestmark = pytest.mark.one_backend


def total(counts):
    """The score over sentences of (right, predicted, true) words."""
    right, predicted, gold = np.sum(counts, axis=0).tolist()
    return SegmentationScore(
        precision=right / predicted,
        recall=right / gold,
        f1=2 * right / (predicted + gold),
        oov_rate=0.25,
        oov_recall=0.5,
        in_vocabulary_recall=None,
        gold_words=gold,
        predicted_words=predicted,
        correct_words=right,
    )


def run_of(counts, name="softmax", transitions=None):
    """A run with these (right, predicted, true) words a sentence."""
    return Run(
        name=name,
        segmenter=None,
        score=total(counts),
        sentence_counts=np.array(counts),
        transitions=transitions,
        seconds=12.4,
    )


random = drawn.generator(0)
GOLD = random.integers(4, 30, size=60)
FAIR = [(round(0.8 * n), n, n) for n in GOLD]
GOOD = [(round(0.95 * n), n, n) for n in GOLD]
# As good as FAIR on the whole, but on other sentences.
OTHER = [(right + shift, n, n) for (right, n, _), shift in zip(FAIR, [1, -1] * 30, strict=True)]


def test_identical_runs_do_not_differ():
    """The difference of a run to itself is 0, and nothing else lies in the interval."""
    assert f1_difference(run_of(FAIR), run_of(FAIR)) == (0.0, 0.0, 0.0)


def test_difference_by_hand():
    """One sentence: every resample is the sentence itself. 2·1/(2+3) against 2·3/(4+3)."""
    difference, low, high = f1_difference(run_of([(1, 2, 3)]), run_of([(3, 4, 3)]))
    assert difference == pytest.approx(6 / 7 - 2 / 5)
    assert (low, high) == (pytest.approx(difference), pytest.approx(difference))


def test_sign():
    """A better second run has a positive difference, and the other way round."""
    difference, low, high = f1_difference(run_of(FAIR), run_of(GOOD))
    assert difference > 0
    assert 0 < low < difference < high
    assert f1_difference(run_of(GOOD), run_of(FAIR)) == pytest.approx((-difference, -high, -low))


def test_interval_holds_zero_where_runs_differ_by_chance():
    """Right on other sentences but as often: the interval holds 0 and is wider than a point."""
    difference, low, high = f1_difference(run_of(FAIR), run_of(OTHER))
    assert difference == 0
    assert low < 0 < high


def test_interval_is_paired_over_sentences():
    """It agrees with a bootstrap written anew, in which both runs see the same sentences."""
    first, second = np.array(FAIR), np.array(GOOD)
    draws = drawn.generator(7).integers(len(first), size=(4000, len(first)))
    differences = []
    for rows in draws:
        (r1, p1, g1), (r2, p2, g2) = first[rows].sum(axis=0), second[rows].sum(axis=0)
        differences.append(2 * r2 / (p2 + g2) - 2 * r1 / (p1 + g1))
    expected = np.percentile(differences, [2.5, 97.5])
    _, low, high = f1_difference(run_of(FAIR), run_of(GOOD))
    np.testing.assert_allclose([low, high], expected, atol=0.1 * (expected[1] - expected[0]))
    assert f1_difference(run_of(FAIR), run_of(GOOD), samples=10)[1:] != (low, high)


def test_best_run(tmp_path):
    """The best run is the one of the highest F1 on the test sentences."""
    runs = [run_of(FAIR, "a"), run_of(GOOD, "b"), run_of(FAIR, "c")]
    result = DemoResult(ManualCorpus([], [], (), ()), runs, "sbme", tmp_path / "m.keras", None)
    assert result.best.name == "b"


def test_picture_of_the_runs_with_transitions(tmp_path, monkeypatch):
    """Each CRF has its matrix in the written picture, the softmax has none."""
    plots = pytest.importorskip("finegrain.monitoring.plots")
    drawn = []

    def matrices(tables, *labels, title):
        drawn.append((list(tables), labels))
        return plots_matrices(tables, *labels, title=title)

    plots_matrices = plots.matrices
    monkeypatch.setattr(plots, "matrices", matrices)
    runs = [run_of(FAIR), run_of(FAIR, "x", np.eye(4)), run_of(FAIR, "y", -np.eye(4))]
    file = tmp_path / "picture.png"
    assert _picture(file, runs, "sbme") == file
    assert file.read_bytes().startswith(b"\x89PNG")
    assert drawn == [(["x", "y"], ("sbme", "sbme"))]


def test_no_picture_without_matplotlib(tmp_path, monkeypatch):
    """Where matplotlib is not installed the demo goes on without the picture."""
    monkeypatch.delitem(sys.modules, "finegrain.monitoring.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert _picture(tmp_path / "picture.png", [run_of(FAIR, "x", np.eye(4))], "sbme") is None
    assert list(tmp_path.iterdir()) == []
