"""The score of given tag sequences."""

from __future__ import annotations

from typing import Any

from keras import ops

from finegrain.crf.chain import Chain, ends, only

Tensor = Any


def score(chain: Chain, tags: Tensor) -> Tensor:
    """Sum all the scores that tag sequences use.

    Emissions and boundaries are selected by comparison, whose gradient is a comparison, too.
    Transitions, which are few, are looked up: one number for each pair. This costs a compiled step
    the least.

    Args:
        chain: A chain.
        tags: (B, T) int32, at valid positions in [0, K).

    Returns:
        (B,) scores; −inf where something forbidden is used, 0 for an empty sequence.
    """
    emissions, transitions, start, end = chain.scores
    valid, num_tags = chain.valid, chain.scores.num_tags
    is_first, is_last = ends(chain)
    linked = ops.logical_and(valid, ops.logical_not(is_first))
    tags = ops.where(valid, tags, ops.zeros_like(tags))
    here = ops.one_hot(tags, num_tags, dtype="bool")  # (B, T, K)
    before = tags_before(chain, tags)  # (B, T)
    zeros = ops.zeros_like(emissions)
    if chain.scores.per_step:
        index = ops.reshape(before, (*ops.shape(before), 1, 1))
        shape = (*ops.shape(before), 1, num_tags)
        rows = ops.take_along_axis(transitions, ops.broadcast_to(index, shape), axis=2)
        moves = ops.sum(ops.where(here, rows[:, :, 0], zeros), axis=2)
    else:
        # Keep invalid tags within bounds: a compiled step cannot refuse them.
        pairs = ops.clip(before * num_tags + tags, 0, num_tags**2 - 1)  # (B, T)
        moves = ops.take(ops.reshape(transitions, (-1,)), pairs, axis=0)
    used = ops.where(ops.logical_and(here, valid[:, :, None]), emissions, zeros)
    used = used + ops.where(ops.logical_and(here, is_first[:, :, None]), start, zeros)
    used = used + ops.where(ops.logical_and(here, is_last[:, :, None]), end, zeros)
    return ops.sum(used, axis=(1, 2)) + ops.sum(only(linked, moves), axis=1)


def difference(mine: Tensor, total: Tensor) -> Tensor:
    """Compute the log-probability, `mine` less `total`; −inf without a gradient if impossible."""
    impossible = ops.full_like(mine, float("-inf"))
    return ops.where(ops.equal(mine, float("-inf")), impossible, mine - total)


def tags_before(chain: Chain, tags: Tensor) -> Tensor:
    """Find the tag at the last valid position before each, (B, T); any tag where there is none."""
    neighbours = ops.pad(tags, ((0, 0), (1, 0)))[:, :-1]
    if chain.mask is None:
        return neighbours
    valid, place = chain.valid, chain.place
    after_gap = ops.logical_not(ops.pad(valid, ((0, 0), (1, 0)), constant_values=False)[:, :-1])
    has_holes = ops.any(ops.logical_and(ops.logical_and(valid, after_gap), place > 1))
    return ops.cond(has_holes, lambda: _across_holes(place, tags), lambda: neighbours)


def _across_holes(place: Tensor, tags: Tensor) -> Tensor:
    batch, time = ops.shape(tags)
    row = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], (batch, time))
    cells = ops.stack([row, ops.maximum(place - 1, 0)], axis=2)
    # Masked positions, whose tags are 0, add nothing to the cell of another.
    closed_up = ops.scatter(ops.reshape(cells, (-1, 2)), ops.reshape(tags, (-1,)), (batch, time))
    return ops.take_along_axis(closed_up, ops.maximum(place - 2, 0), axis=1)
