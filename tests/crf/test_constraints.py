"""Constraints: tables of what is allowed, from schemes, matrices and configurations."""

from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops

from finegrain.crf.constraints import Constraints, forbid
from finegrain.tagging import BMES

ALLOWED = np.array([[True, False], [True, True]])
NAMES = ("allowed", "allowed_start", "allowed_end")


def test_none():
    """No constraints are no tables."""
    assert Constraints.of(None, 3) is None


@pytest.mark.parametrize("matrix", [ALLOWED, ALLOWED.tolist()])
def test_matrix(matrix):
    """A matrix leaves the boundaries free."""
    constraints = Constraints.of(matrix, 2)
    np.testing.assert_array_equal(constraints.allowed, ALLOWED)
    assert constraints.allowed_start.tolist() == constraints.allowed_end.tolist() == [True, True]


def test_scheme():
    """A tag scheme brings all three tables."""
    constraints = Constraints.of(BMES(), 4)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(constraints, name), getattr(BMES(), name))


def test_config_round_trip():
    """The configuration is plain lists and makes the same tables."""
    constraints = Constraints.of(BMES(), 4)
    config = constraints.get_config()
    assert all(isinstance(table, list) for table in config.values())
    again = Constraints.of(config, 4)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(again, name), getattr(constraints, name))


def table(**tables):
    usual = {"allowed": ALLOWED, "allowed_start": [True, True], "allowed_end": [True, True]}
    return SimpleNamespace(**usual | tables)


@pytest.mark.parametrize(
    ("constraints", "name"),
    [
        (np.ones((3, 3), bool), "allowed"),
        (np.ones(4, bool), "allowed"),
        (ALLOWED.astype(int), "allowed"),
        (ALLOWED.astype("float32"), "allowed"),
        (np.zeros((2, 2), bool), "allowed"),
        (BMES(), "allowed"),
        (table(allowed_start=[True] * 3), "allowed_start"),
        (table(allowed_start=[False, False]), "allowed_start"),
        (table(allowed_end=[1, 0]), "allowed_end"),
        (table(allowed_end=[[True, True]]), "allowed_end"),
    ],
)
def test_wrong_tables_are_named(constraints, name):
    """A table of another size or type, or that allows nothing, is refused by its name."""
    with pytest.raises(ValueError, match=rf"(?s)for 2 tags: `{name}` of shape.*Received: {name}="):
        Constraints.of(constraints, 2)


def test_apply():
    """Scores stay where allowed, to the bit, and are −inf elsewhere."""
    scores = [np.arange(16, dtype="float32").reshape(4, 4) - 8, *np.ones((2, 4), "float32")]
    applied = Constraints.of(BMES(), 4).apply(*map(ops.convert_to_tensor, scores))
    for ours, before, name in zip(applied, scores, NAMES, strict=True):
        expected = np.where(getattr(BMES(), name), before, -np.inf)
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), expected)


def test_forbid_keeps_the_dtype():
    """Forbidding does not widen scores."""
    scores = ops.zeros((2, 2), "float16")
    assert forbid(scores, ALLOWED).dtype == scores.dtype
