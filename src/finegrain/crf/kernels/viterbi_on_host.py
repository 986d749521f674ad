"""Viterbi's algorithm in NumPy, the fastest where each operation is launched by itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def best_tags(
    emissions: np.ndarray,
    transitions: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    mask: np.ndarray | None,
) -> np.ndarray:
    """Find the best tags, (batch, time) int32; anything at masked positions.

    Args:
        emissions: (batch, time, tags).
        transitions: (tags, tags).
        start: (tags,).
        end: (tags,).
        mask: (batch, time) boolean, or None for all true.
    """
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
