"""Samples of tag sequences."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain.crf.chain import Chain
from finegrain.crf.kernels import log_space
from finegrain.crf.kernels.loops import scan

Tensor = Any


def noise_of(chain: Chain, n: int, seed: Any) -> Tensor:
    """Draw the numbers by which n tag sequences are drawn, (T, n, B, 1) in [0, 1).

    Args:
        chain: The chain.
        n: How many.
        seed: As `keras.random` takes it.
    """
    emissions = chain.scores.emissions
    batch, time = ops.shape(emissions)[:2]
    noise = keras.random.uniform((time, n, batch, 1), dtype=emissions.dtype, seed=seed)
    # Below 1 even after rounding, so that some tag is always drawn.
    return noise * (1 - 4 * float(np.finfo(keras.backend.standardize_dtype(noise.dtype)).eps))


def sample(chain: Chain, noise: Tensor) -> Tensor:
    """Draw n tag sequences exactly: each tag given the one before it and all that may follow.

    Args:
        chain: A shifted chain.
        noise: (T, n, B, 1), as `noise_of` draws it.

    Returns:
        (n, B, T) int32; anything at masked positions, −1 for a chain without possible sequences.
    """
    scores = chain.scores

    def look_ahead(at: log_space.Step, following: Tensor, nothing: Any, more: Any) -> Any:
        return nothing, (following,)

    emission = scores.emissions[:, 0]
    _, (following,) = log_space.backward(chain, look_ahead, emission, [emission.dtype])
    columns = log_space.columns(chain)
    n, batch = ops.shape(noise)[1:3]

    def step(tag: Tensor, xs: Any) -> Any:
        at = log_space.step_of(chain, xs[:-2])
        logits = log_space.conditional(at, xs[-2])  # (B, K, K)
        first = scores.start[None] + at.emission + xs[-2]  # (B, K)
        given = ops.where(at.first[:, :, None], first[:, None], logits)
        before = ops.transpose(tag)  # (B, n)
        index = ops.broadcast_to(ops.maximum(before, 0)[:, :, None], (batch, n, scores.num_tags))
        rows = ops.take_along_axis(given, index, axis=1)  # (B, n, K)
        heap = ops.cumsum(log_space.softmax(rows, 2), axis=2)
        drawn = heap > ops.transpose(xs[-1], (1, 0, 2)) * heap[:, :, -1:]
        found = ops.cast(ops.argmax(drawn, axis=2), "int32")
        begun = ops.logical_or(at.first, before >= 0)
        found = ops.where(ops.logical_and(begun, heap[:, :, -1] > 0), found, -1)
        found = ops.where(at.valid, found, before)
        return ops.transpose(found), (ops.transpose(found),)

    tag = ops.zeros((n, batch), dtype="int32")
    _, (tags,) = scan(step, tag, (*columns, following, noise), ["int32"])
    return ops.transpose(tags, (1, 2, 0))
