"""allowed_sequences and what is said of labels that are forbidden: against sequences one by one."""

from itertools import pairwise

import numpy as np
import pytest

import drawn
import finegrain as fg
from finegrain.crf.labels import explain
from finegrain.tagging import BMES

pytestmark = pytest.mark.one_backend

random = drawn.generator(0)
SCHEME = BMES()


def by_hand(row):
    """Whether a scheme allows tags without gaps."""
    if not len(row):
        return True
    ends = SCHEME.allowed_start[row[0]] and SCHEME.allowed_end[row[-1]]
    return bool(ends) and all(SCHEME.allowed[a, b] for a, b in pairwise(row))


def test_as_sequences_one_by_one():
    """With holes, padding and empty rows."""
    tags = random.integers(-1, 4, (400, 5))
    mask = random.random(tags.shape) < 0.5
    expected = [by_hand(row[(row >= 0) & m]) for row, m in zip(tags, mask, strict=True)]
    assert 0.1 < np.mean(expected) < 0.9
    np.testing.assert_array_equal(fg.crf.allowed_sequences(tags, SCHEME, mask), expected)


def test_a_matrix():
    tags = np.array([[0, 0], [0, 1], [1, 0]])
    allowed = np.array([[True, True], [False, True]])
    np.testing.assert_array_equal(fg.crf.allowed_sequences(tags, allowed), [True, True, False])
    empty = fg.crf.allowed_sequences(np.zeros((0, 3), int), allowed)
    assert empty.shape == (0,)
    assert fg.crf.allowed_sequences(np.zeros((2, 0), int), allowed).tolist() == [True, True]


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ([-1, 2, 3, -1], r"tag 2 may not begin a sequence, at position 1"),
        ([0, -1, 1, 0], r"tag 0 may not follow tag 1, at position 3"),
        ([0, 0, -1, 1], r"tag 1 may not end a sequence, at position 3"),
        ([0, 0, 0, 0], r"tag 0 has the score −inf there, at position 2"),
    ],
)
def test_explained(tags, why):
    """The first place of the first row."""
    tags = np.array([[0, 0, -1, 0], tags])
    emissions = np.zeros((2, 4, 4))
    emissions[1, 2, 0] = -np.inf
    scores = [
        np.where(table, 0.0, -np.inf)
        for table in (SCHEME.allowed, SCHEME.allowed_start, SCHEME.allowed_end)
    ]
    message = explain(tags, emissions, *scores, tags >= 0)
    assert message is not None
    assert why in message
    assert "1 of the 2 sequences" in message
    assert f"tags[1]={tags[1].tolist()}" in message
    assert explain(tags[:1], emissions[:1], *scores, tags[:1] >= 0) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 4]], SCHEME), r"in \[0, 4\).*tags\[0, 1\]=4"),
        (([0, 1], SCHEME), r"shape \(batch, time\).*tags\.shape=\(2,\)"),
        (([[0.0]], SCHEME), r"integers.*tags\.dtype=float64"),
        (([[0]], None), r"`constraints` should be.*constraints=None"),
        (([[0]], SCHEME, [[1]]), r"`mask` should be boolean.*mask\.dtype=int64"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fg.crf.allowed_sequences(*arguments)
