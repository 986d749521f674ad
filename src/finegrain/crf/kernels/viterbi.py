"""Viterbi's algorithm: the best tag sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from finegrain.crf.chain import Chain, ends
from finegrain.crf.kernels.loops import argmax, largest, scan, take_rows

Tensor = Any

# Positions that one turn of a loop deals with: each turn has a price of its own.
STEPS = 2


def best_tags(chain: Chain) -> Tensor:
    """Find the best tags, (B, T) int32; anything at masked positions.

    Args:
        chain: A shifted chain.
    """
    return _from_one_end(chain) if chain.scores.per_step else _from_both_ends(chain)


def _from_both_ends(chain: Chain) -> Tensor:
    """Find the best tags, (B, T) int32, from both ends at once, if all steps share transitions.

    Each loop takes half the turns, with two rows in each. Two walks meet in the middle and keep
    the best scores only. From there both go back, each looking for the best origin of the one tag
    that it stands on.
    """
    scores = chain.scores
    time, num_tags = ops.shape(scores.emissions)[1], scores.num_tags
    turns = (time + 2 * STEPS - 1) // (2 * STEPS)
    emissions = _halves(scores.emissions, turns)  # (turns, STEPS, 2, B, K)
    valid = _halves(chain.valid[:, :, None], turns)  # (turns, STEPS, 2, B, 1)
    moves = ops.stack([ops.transpose(scores.transitions), scores.transitions])  # (2, K to, K from)
    rows = ops.reshape(moves, (2 * num_tags, num_tags))
    first_row = ops.convert_to_tensor([[0], [num_tags]], dtype="int32")

    def forward(reached: Tensor, xs: Any) -> Any:
        arrived = []
        for t in range(STEPS):
            arrived.append(reached + xs[0][t])  # (2, B, K)
            moved = largest(ops.expand_dims(arrived[t], 2) + moves[:, None], axis=3)
            reached = ops.where(xs[1][t], moved, reached)
        return reached, (ops.stack(arrived),)

    outer = ops.stack([scores.start, scores.end])[:, None]  # (2, 1, K)
    outer = outer + ops.zeros_like(emissions[0, 0])
    reached, (arrived,) = scan(forward, outer, (emissions, valid), [emissions.dtype])

    # The last tag of the left half goes with what the right one reached, and the first of the
    # right half with that tag: of two best sequences not a part of each.
    left = _flat(valid, turns)[:, 0]  # (H, B, 1)
    last = ops.shape(left)[0] - 1 - ops.argmax(ops.flip(left, axis=0), axis=0)  # (B, 1)
    arrived_last = ops.take_along_axis(_flat(arrived, turns)[:, 0], last[None], axis=0)[0]  # (B, K)
    middle = argmax(arrived_last + reached[1])  # (B,)
    onwards = take_rows(scores.transitions, middle)
    onwards = ops.where(ops.any(left, axis=0), onwards, reached[0])

    def backward(ahead: Tensor, xs: Any) -> Any:
        tags = []
        for t in reversed(range(STEPS)):
            tags.append(argmax(xs[0][t] + ahead))  # (2, B)
            ahead = ops.where(xs[1][t], take_rows(rows, tags[-1] + first_row), ahead)
        return ahead, (ops.stack(tags[::-1]),)

    ahead = ops.stack([reached[1], onwards])
    _, (tags,) = scan(backward, ahead, (arrived, valid), ["int32"], reverse=True)
    tags = _flat(tags, turns)  # (H, 2, B)
    tags = ops.concatenate([tags[:, 0], ops.flip(tags[:, 1], axis=0)])
    return ops.transpose(tags[:time])


def _halves(x: Tensor, turns: Any) -> Tensor:
    """Halve (B, T, ...) into (turns, STEPS, 2, B, ...): on from the first, back from the last.

    Zeros stand for the positions that are missing after the last.
    """
    padding = turns * 2 * STEPS - ops.shape(x)[1]
    x = ops.pad(ops.swapaxes(x, 0, 1), ((0, padding), *((0, 0),) * (len(x.shape) - 1)))
    left, right = x[: turns * STEPS], ops.flip(x[turns * STEPS :], axis=0)
    x = ops.stack([left, right], axis=1)
    return ops.reshape(x, (turns, STEPS, *ops.shape(x)[1:]))


def _flat(x: Tensor, turns: Any) -> Tensor:
    return ops.reshape(x, (turns * STEPS, *ops.shape(x)[2:]))


def _from_one_end(chain: Chain) -> Tensor:
    """Find the best tags, (B, T) int32, if each step has transitions of its own."""
    scores = chain.scores
    is_first, _ = ends(chain)
    valid, first = (ops.transpose(x)[:, :, None] for x in (chain.valid, is_first))  # (T, B, 1)
    emissions = ops.transpose(scores.emissions, (1, 0, 2))  # (T, B, K)
    moves = ops.transpose(scores.transitions, (1, 0, 2, 3))  # (T, B, K from, K to)

    def forward(best: Tensor, xs: Any) -> Any:
        emission, valid, first, moves = xs
        arrived = ops.max(best[:, :, None] + moves, axis=1, initial=-np.inf)  # (B, K)
        arrived = ops.where(first, scores.start, arrived) + emission
        return ops.where(valid, arrived, best), (best,)

    zeros = ops.zeros_like(emissions[0])
    best, (before,) = scan(forward, zeros, (emissions, valid, first, moves), [emissions.dtype])
    tag = argmax(best + scores.end)  # (B,)
    linked = ops.logical_and(valid, ops.logical_not(first))[:, :, 0]  # (T, B)

    def backward(tag: Tensor, xs: Any) -> Any:
        best, linked, moves = xs
        index = ops.broadcast_to(tag[:, None, None], (*ops.shape(best), 1))
        arriving = ops.take_along_axis(moves, index, axis=2)[:, :, 0]
        return ops.where(linked, argmax(best + arriving), tag), (tag,)

    _, (tags,) = scan(backward, tag, (before, linked, moves), ["int32"], reverse=True)
    return ops.transpose(tags)
