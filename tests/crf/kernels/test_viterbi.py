"""The forms of Viterbi's algorithm against each other and against all sequences."""

import keras
import numpy as np
import pytest
from keras import ops

import drawn
from finegrain.crf.chain import Chain
from finegrain.crf.checks import checked_chain
from finegrain.crf.kernels import (
    viterbi,
    viterbi_compared,
    viterbi_in_graphs,
    viterbi_on_host,
)
from oracle import EnumeratedChain

BATCH, TAGS = 12, 3


def on_host(chain):
    scores = [ops.convert_to_numpy(part) for part in chain.scores]
    return viterbi_on_host.best_tags(*scores, ops.convert_to_numpy(chain.mask))


def from_one_end(chain):
    """Through transitions of each step's own, of which all are the same."""
    scores = chain.scores
    batch, time, tags = scores.emissions.shape
    own = ops.broadcast_to(scores.transitions, (batch, time, tags, tags))
    return viterbi.best_tags(Chain(scores._replace(transitions=own), chain.mask))


def compared(chain):
    return viterbi_compared.best_tags(chain)


def from_both_ends(chain):
    return viterbi.best_tags(chain)


def in_graphs(chain):
    return viterbi_in_graphs.best_tags(chain)


FORMS = [from_both_ends, compared, on_host, from_one_end, in_graphs]


@pytest.mark.selected(
    "4-from_both_ends", "4-compared", "5-from_one_end", "1-on_host", "5-in_graphs"
)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("time", [1, 4, 5])
def test_best_of_all_sequences(form, time):
    """Where many are equally good, too, and some are forbidden: one of the best, and whole.

    Lengths on both sides of a turn of the loops; padding before, behind and between,
    through one half of a chain and through all of it.
    """
    random = drawn.generator(time)
    mask = random.random((BATCH, time)) < 0.7
    mask[0:2, : time // 2], mask[2, time // 2 :], mask[3] = False, False, False
    transitions = random.integers(-2, 1, size=(TAGS, TAGS)).astype("float32")
    transitions[0, 1] = transitions[2, 2] = -np.inf
    parts = {
        "emissions": random.integers(-1, 1, size=(BATCH, time, TAGS)).astype("float32"),
        "transitions": transitions,
        "start": np.array([0, -1, 0], "float32"),
        "end": np.array([0, 0, -np.inf], "float32"),
        "mask": mask,
    }
    if keras.backend.backend() == "jax" and form is not on_host:
        import jax

        form = jax.jit(form)
    found = ops.convert_to_numpy(form(checked_chain(**parts).shifted()[0]))
    for i, tags in enumerate(found):
        chain = EnumeratedChain(
            parts["emissions"][i], transitions, parts["start"], parts["end"], mask[i]
        )
        assert chain.score(tags) == chain.best_score()


@pytest.mark.selected("compared")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_one_of_two_equal_sequences(form):
    """Tags that must change at each step: 0101 or 1010, not a half of each."""
    transitions = np.array([[-np.inf, 0], [0, -np.inf]], "float32")
    nothing = np.zeros(2, "float32")
    scores = {"transitions": transitions, "start": nothing, "end": nothing}
    chain = checked_chain(np.zeros((1, 4, 2), "float32"), **scores, mask=np.ones((1, 4), bool))
    (tags,) = ops.convert_to_numpy(form(chain.shifted()[0])).tolist()
    assert tags in ([0, 1, 0, 1], [1, 0, 1, 0])
