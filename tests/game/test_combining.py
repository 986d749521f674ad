"""Losses that reach the same weights, with their gradients combined."""

import keras
import numpy as np
import pytest
from keras import ops

import drawn
import finegrain as fg
from compiling import XLA
from covering import covering
from game.games import LABELS, X, Y, mean_square, network
from game.test_game import step
from routing.differentiate import array, arrays, differentiate

REACH = {"one": ["body", "head"], "other": ["body", "tail"]}


@keras.saving.register_keras_serializable("tests")
def torn(body, head, tail, x, y):
    """Two tasks that want other features of the same body."""
    hidden, y = body(x), 2 * y - 1
    return {"one": mean_square(head(hidden) - y), "other": 5 * mean_square(tail(hidden) + y)}


def tasks(combine, **arguments):
    drawn.seed_keras(1)
    networks = {
        "body": network(3, 4, "body"),
        "head": network(4, 1, "head"),
        "tail": network(4, 1, "tail"),
    }
    # Two like heads, of small scores, which one task wants to be y and the other -y.
    small = [0.2 * weight for weight in networks["head"].get_weights()]
    for name in ("head", "tail"):
        networks[name].set_weights(small)
    return fg.models.Game(networks, torn, REACH, combine=combine, **arguments)


def gradients_of_each(game):
    """For each loss, its gradients by a backward pass of its own."""
    y = ops.convert_to_tensor(LABELS)
    return {
        name: differentiate(lambda x, name=name: torn(**game.networks, x=x, y=y)[name], X, [game])
        for name in REACH
    }


@pytest.mark.parametrize(
    ("combine", "compiled"),
    covering(
        [fg.gradients.UPGrad(), fg.gradients.PCGrad(seed=1), fg.gradients.MGDA()], [True, False]
    ),
)
def test_what_both_reach_is_combined(combine, compiled):
    """The body's gradients are combined, all weights together; each head keeps its own."""
    game = tasks(combine)
    own = gradients_of_each(game)
    found = step(game, X, LABELS, compiled=compiled and bool(XLA)).weights
    of_body = [[ops.convert_to_tensor(g) for g in result.weights[:4]] for result in own.values()]
    inner = sum(float((array(a) * array(b)).sum()) for a, b in zip(*of_body, strict=True))
    assert inner < 0  # they are in conflict
    for gradient, expected in zip(found[:4], combine(of_body), strict=True):
        np.testing.assert_allclose(gradient, array(expected), rtol=1e-4, atol=1e-6)
    for index, name in ((4, "one"), (8, "other")):
        for gradient, expected in zip(found[index:], own[name].weights[index:], strict=False):
            if index == 8 or expected.any():
                np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.full
def test_a_conflict_harms_nobody():
    """By the sum the small loss rises, by UPGrad both fall, in one plain step."""
    falls = {}
    for combine in (None, fg.gradients.UPGrad()):
        game = tasks(combine)
        game.compile(keras.optimizers.SGD(1e-3), jit_compile=XLA or "auto")
        before = game.evaluate(X, LABELS, batch_size=12, return_dict=True, verbose=0)
        # The heads stay, so that the body alone makes the difference.
        kept = arrays(game.trainable_variables[4:])
        game.train_on_batch(X, LABELS)
        for variable, value in zip(game.trainable_variables[4:], kept, strict=True):
            variable.assign(value)
        after = game.evaluate(X, LABELS, batch_size=12, return_dict=True, verbose=0)
        falls[combine is None] = [before[name] - after[name] for name in REACH]
    assert min(falls[True]) < 0
    assert min(falls[False]) > 0


def test_seeds_come_back(tmp_path):
    """The orders of PCGrad go on from a file as if nothing had happened."""

    @keras.saving.register_keras_serializable("tests")
    def three(body, x, y):
        made = body(x)
        return {name: mean_square(made[:, i] - y[:, i]) for i, name in enumerate("abc")}

    drawn.seed_keras(1)
    reach = dict.fromkeys("abc", "body")
    game = fg.models.Game(
        {"body": network(3, 3, "body")}, three, reach, combine=fg.gradients.PCGrad(seed=3)
    )
    game.compile("sgd")
    game.fit(X, 9 * Y, batch_size=4, shuffle=False, verbose=0)
    game.save(tmp_path / "game.keras")
    again = keras.models.load_model(tmp_path / "game.keras")
    for one in (game, again):
        one.fit(X, 9 * Y, batch_size=4, shuffle=False, verbose=0)
    assert (
        array(again.combination_seed.state).tolist() == array(game.combination_seed.state).tolist()
    )
    for mine, other in zip(game.weights, again.weights, strict=True):
        np.testing.assert_array_equal(array(mine), array(other), err_msg=mine.path)
