"""Viterbi: the best tag sequence."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from keras import ops

from finegrain.crf.chain import Chain, ends
from finegrain.crf.loops import scan

Tensor = Any

# Up to so many tags, comparing them one after another is faster than a reduction with pointers.
MOST_COMPARED = 20


def best_tags(chain: Chain) -> Tensor:
    """(B, T) int32: the best tags; anything at masked positions.

    The loop forwards keeps the best scores only. The loop back finds the best origin of the one
    tag that it stands on, instead of all origins of all tags.

    Args:
        chain: A shifted chain.
    """
    scores = chain.scores
    is_first, _ = ends(chain)
    valid, first = (ops.transpose(x)[:, :, None] for x in (chain.valid, is_first))  # (T, B, 1)
    emissions = ops.transpose(scores.emissions, (1, 0, 2))  # (T, B, K)
    xs = (emissions, valid, first)
    if scores.per_step:
        xs = (*xs, ops.transpose(scores.transitions, (1, 0, 2, 3)))

    def forward(best: Tensor, xs: Any) -> Any:
        emission, valid, first = xs[:3]
        moves = xs[3] if scores.per_step else scores.transitions[None]
        arrived = ops.max(best[:, :, None] + moves, axis=1, initial=-np.inf)  # (B, K)
        arrived = ops.where(first, scores.start, arrived) + emission
        return ops.where(valid, arrived, best), (best,)

    zeros = ops.zeros_like(emissions[0])
    best, (before,) = scan(forward, zeros, xs, [emissions.dtype])
    tag = ops.cast(ops.argmax(best + scores.end, axis=1), "int32")  # (B,)
    linked = ops.logical_and(valid, ops.logical_not(first))[:, :, 0]  # (T, B)
    arriving = ops.transpose(scores.transitions) if not scores.per_step else None

    def backward(tag: Tensor, xs: Any) -> Any:
        best, linked = xs[:2]
        if scores.per_step:
            index = ops.broadcast_to(tag[:, None, None], (*ops.shape(best), 1))
            moves = ops.take_along_axis(xs[2], index, axis=2)[:, :, 0]
        else:
            moves = ops.take(arriving, tag, axis=0)  # (B, K)
        origin = ops.cast(ops.argmax(best + moves, axis=1), "int32")
        return ops.where(linked, origin, tag), (tag,)

    _, (tags,) = scan(backward, tag, (before, linked, *xs[3:]), ["int32"], reverse=True)
    return ops.transpose(tags)


def best_tags_compared(chain: Chain) -> Tensor:
    """The same for few tags under a compiler that fuses what a step does.

    The batch stands last; origins are compared one after another and kept as bytes.
    """
    scores = chain.scores
    num_tags = scores.num_tags
    is_first, _ = ends(chain)
    valid, first = (ops.transpose(x)[:, None] for x in (chain.valid, is_first))  # (T, 1, B)
    emissions = ops.transpose(scores.emissions, (1, 2, 0))  # (T, K, B)
    moves = scores.transitions[:, :, None]  # (K from, K to, 1)

    def forward(best: Tensor, xs: Any) -> Any:
        emission, valid, first = xs
        arrived = best[:1] + moves[0]  # (K, B)
        origin = ops.zeros_like(arrived, dtype="int8")
        for tag in range(1, num_tags):
            other = best[tag : tag + 1] + moves[tag]
            better = other > arrived
            arrived = ops.where(better, other, arrived)
            origin = ops.where(better, ops.full_like(origin, tag), origin)
        arrived = ops.where(first, scores.start[:, None], arrived) + emission
        return ops.where(valid, arrived, best), (origin,)

    best, (origins,) = scan(
        forward, ops.zeros_like(emissions[0]), (emissions, valid, first), ["int8"]
    )
    tag = ops.cast(ops.argmax(best + scores.end[:, None], axis=0), "int32")  # (B,)

    def backward(tag: Tensor, xs: Any) -> Any:
        origin, valid, first = xs
        previous = ops.take_along_axis(origin, tag[None], axis=0)[0]
        linked = ops.logical_and(valid, ops.logical_not(first))[0]
        return ops.where(linked, ops.cast(previous, "int32"), tag), (tag,)

    _, (tags,) = scan(backward, tag, (origins, valid, first), ["int32"], reverse=True)
    return ops.transpose(tags)


def best_tags_on_host(
    emissions: np.ndarray,
    transitions: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    mask: np.ndarray | None,
) -> np.ndarray:
    """The same in NumPy: where each operation is launched by itself, it launches the fastest."""
    emissions = _below_peak(emissions, 2)
    transitions, start, end = (_below_peak(x) for x in (transitions, start, end))
    batch, time, _ = emissions.shape
    row = np.arange(batch)
    length, times = np.full(batch, time), None
    if mask is not None:
        length = mask.sum(1)
        times = np.argsort(~mask, axis=1, kind="stable")  # the valid positions come first
        emissions = np.take_along_axis(emissions, times[:, :, None], axis=1)
    best = np.ascontiguousarray(emissions.transpose(1, 2, 0))  # (T, K, B)
    best[0] += start[:, None]
    moves = np.repeat(transitions[:, :, None], batch, axis=2)  # (K from, K to, B)
    sums, arrived = np.empty_like(moves), np.empty_like(best[0])
    for before, here in pairwise(best):
        np.add(before[:, None], moves, out=sums)
        np.maximum.reduce(sums, axis=0, out=arrived)
        here += arrived
    tag = (best[np.maximum(length - 1, 0), :, row].T + end[:, None]).argmax(0)
    shortest = length.min(initial=time)
    tags = np.empty((time, batch), np.int32)
    tags[-1:] = tag
    for t in range(time - 2, -1, -1):
        origin = (best[t] + transitions[:, tag]).argmax(0)
        tag = origin if t + 1 < shortest else np.where(t + 1 < length, origin, tag)
        tags[t] = tag
    tags = tags.T
    if times is None:
        return tags
    in_time = np.empty_like(tags)
    np.put_along_axis(in_time, times, tags, axis=1)
    return in_time


def _below_peak(scores: np.ndarray, axis: int | None = None) -> np.ndarray:
    peak = scores.max(axis, keepdims=True)
    return scores - np.where(np.isfinite(peak), peak, 0)
