"""Viterbi's algorithm for graphs that run operation by operation: TensorFlow's, and ONNX's."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from finegrain.crf.chain import Chain
from finegrain.crf.kernels.loops import argmax, largest, scan, take_rows

Tensor = Any

# Positions that one turn of a loop deals with: each turn has a price of its own.
STEPS = 2


def best_tags(chain: Chain) -> Tensor:
    """Find the best tags, (B, T) int32; anything at masked positions.

    Two walks from both ends meet in the middle and back, as in `viterbi`. Operations in the loops
    are few and long: the batch stands last on the way to the middle, so that sums and maxima run
    along it, and all that can be is done before. And nothing is selected there, since exporters
    make products of it, which are slow, and wrong where −inf is among what is not selected.

    Shapes: H is half of the time, rounded up to whole turns.

    Args:
        chain: A shifted chain of finite scores, with transitions that all steps share.
    """
    scores = chain.scores
    time, num_tags = ops.shape(scores.emissions)[1], scores.num_tags
    turns = (time + 2 * STEPS - 1) // (2 * STEPS)
    valid = _halves(ops.transpose(chain.valid)[:, None], turns)  # (H, 2, 1, B)
    emissions = _halves(ops.transpose(scores.emissions, (1, 2, 0)), turns)  # (H, 2, K, B)
    # At a masked position what arrives is lost, and at a valid one what was there before.
    emissions = ops.where(valid, emissions, -np.inf)
    kept = ops.where(valid, ops.cast(-np.inf, emissions.dtype), 0.0)  # (H, 2, 1, B)
    both = ops.stack([scores.transitions, ops.transpose(scores.transitions)])
    moves = both[:, :, :, None]  # (2, K from, K to, 1)

    def forward(reached: Tensor, xs: Any) -> Any:
        arrived = []
        for emission, keep in zip(xs[:STEPS], xs[STEPS:], strict=True):
            arrived.append(reached + emission)  # (2, K, B)
            moved = largest(ops.expand_dims(arrived[-1], 2) + moves, axis=1)
            reached = ops.maximum(moved, reached + keep)
        return reached, tuple(arrived)

    outer = ops.stack([scores.start, scores.end])[:, :, None]  # (2, K, 1)
    outer = outer + ops.zeros_like(scores.emissions[:, 0, 0])
    xs = [*_steps(emissions, turns), *_steps(kept, turns)]
    reached, arrived = scan(forward, outer, xs, [emissions.dtype] * STEPS)
    reached = ops.transpose(reached, (0, 2, 1))  # (2, B, K)
    arrived = [ops.transpose(x, (0, 1, 3, 2)) for x in arrived]  # (turns, 2, B, K) each

    # The last tag of the left half goes with what the right one reached, and the first of the
    # right half with that tag: of two best sequences not a part of each.
    left = valid[:, 0, 0]  # (H, B)
    place = ops.cumsum(ops.ones_like(left, dtype="int32"), axis=0)
    last = ops.max(ops.where(left, place, 0), axis=0, initial=0)  # (B,), 0 where there is none
    others = ops.where(place == last, ops.cast(0, emissions.dtype), -np.inf)[:, :, None]
    arrived_last = [
        ops.max(x[:, 0] + other, axis=0, initial=-np.inf)
        for x, other in zip(arrived, _steps(others, turns), strict=True)
    ]
    middle = argmax(ops.max(ops.stack(arrived_last), axis=0, initial=-np.inf) + reached[1])  # (B,)
    onwards = ops.where(last[:, None] > 0, take_rows(scores.transitions, middle), reached[0])

    # The scores of what is ahead are rows of a table: a walk carries their places alone.
    rows = ops.reshape(ops.flip(both, axis=0), (2 * num_tags, num_tags))
    table = ops.concatenate([rows, reached[1], onwards])
    batch = ops.shape(onwards)[0]
    ahead = ops.reshape(2 * num_tags + ops.arange(2 * batch, dtype="int32"), (2, batch))
    first_row = ops.convert_to_tensor([[0], [num_tags]], dtype="int32")

    def backward(ahead: Tensor, xs: Any) -> Any:
        tags = []
        for here, inside in zip(xs[:STEPS][::-1], xs[STEPS:][::-1], strict=True):
            tags.append(argmax(here + take_rows(table, ahead)))  # (2, B)
            ahead = ahead + inside * (tags[-1] + first_row - ahead)
        return ahead, tuple(tags[::-1])

    xs = [*arrived, *_steps(ops.cast(valid[:, :, 0], "int32"), turns)]
    _, tags = scan(backward, ahead, xs, ["int32"] * STEPS, reverse=True)
    tags = ops.reshape(ops.stack(tags, axis=1), (turns * STEPS, 2, batch))
    tags = ops.concatenate([tags[:, 0], ops.flip(tags[:, 1], axis=0)])
    return ops.transpose(tags[:time])


def _halves(x: Tensor, turns: Any) -> Tensor:
    """Halve (T, ...) into (H, 2, ...): on from the first, back from the last.

    Zeros stand for the positions that are missing after the last.
    """
    padding = 2 * turns * STEPS - ops.shape(x)[0]
    x = ops.pad(x, ((0, padding), *((0, 0),) * (len(x.shape) - 1)))
    return ops.stack([x[: turns * STEPS], ops.flip(x[turns * STEPS :], axis=0)], axis=1)


def _steps(x: Tensor, turns: Any) -> list[Tensor]:
    """Split (H, ...) into the steps of a turn: (turns, ...) each."""
    x = ops.reshape(x, (turns, STEPS, *ops.shape(x)[1:]))
    return [x[:, step] for step in range(STEPS)]
