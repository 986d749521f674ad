"""Sequences that are equally good: every way of decoding chooses the same one."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import drawn
from crf.autodiff import BACKEND
from finegrain.crf import LinearChain

KS = (1, 2, 5)


def decoded(emissions, transitions, start, end, mask):
    """The mode, and the tags and scores of the k best, for several k."""
    chain = LinearChain(emissions, transitions, start=start, end=end, mask=mask)
    return chain.mode(), [chain.top_k(k) for k in KS]


@functools.cache
def compiled():
    """On JAX by its compiler, once for each shape, and on TensorFlow as a graph."""
    if BACKEND == "jax":
        import jax

        return jax.jit(decoded)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(decoded)
    return decoded


def check(shape, per_step, top, seed):
    """Scores of few whole numbers: most sequences have equals, often more than k."""
    random = drawn.generator(seed)
    batch, time, tags = shape
    moves = (batch, time - 1, tags, tags) if per_step else (tags, tags)
    emissions, transitions, start, end = (
        random.integers(0, top + 1, size).astype("float32") for size in (shape, moves, tags, tags)
    )
    transitions = np.where(random.random(moves) < 0.2, -np.inf, transitions).astype("float32")
    mask = random.random((batch, time)) < 0.8
    mode, best = compiled()(emissions, transitions, start, end, mask)
    tags, score = map(ops.convert_to_numpy, mode)
    best = [tuple(map(ops.convert_to_numpy, found)) for found in best]
    longest = best[-1]
    possible = score > -np.inf
    for k, (sequences, scores) in zip(KS, best, strict=True):
        np.testing.assert_array_equal(sequences[possible, 0], tags[possible])
        np.testing.assert_array_equal(scores[:, 0], score)
        np.testing.assert_array_equal(sequences, longest[0][:, :k])
        np.testing.assert_array_equal(scores, longest[1][:, :k])
    for rows, scores in zip(*longest, strict=True):
        there = rows[scores > -np.inf]
        assert len({tuple(row) for row in there}) == len(there)


@pytest.mark.selected("False")
@pytest.mark.parametrize("per_step", [False, True])
@settings(max_examples=20 if BACKEND == "torch" else 8)
@given(top=st.integers(0, 2), seed=st.integers(0, 10**6))
def test_the_first_of_the_k_best_is_the_mode(per_step, top, seed):
    """Of k = 1, too; and each k begins as a smaller one."""
    check((12, 5, 3), per_step, top, seed)


def test_many_tags():
    """More than a byte counts: JAX decodes them in another way."""
    check((4, 3, 130), False, 1, 0)
