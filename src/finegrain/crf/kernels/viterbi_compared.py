"""Viterbi's algorithm for a compiler that fuses what a step does: origins compared one by one."""

from __future__ import annotations

from typing import Any

from keras import ops

from finegrain.crf.chain import Chain, ends
from finegrain.crf.kernels.loops import scan

Tensor = Any

MOST_TAGS = 127
"""The largest number of tags for which origins are kept as bytes."""


def best_tags(chain: Chain) -> Tensor:
    """Find the best tags, (B, T) int32; anything at masked positions.

    The batch stands last; origins are compared one after another and kept as bytes.

    Args:
        chain: A shifted chain of at most `MOST_TAGS` tags, with transitions that all steps share.
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
