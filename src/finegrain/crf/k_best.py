"""The k best tag sequences."""

from __future__ import annotations

from typing import Any

from keras import ops

from finegrain.crf.chain import Chain, ends
from finegrain.crf.kernels.loops import scan, top_k

Tensor = Any


def k_best(chain: Chain, k: int) -> tuple[Tensor, Tensor]:
    """Find the k best tag sequences: Viterbi that keeps the k best ways to each tag.

    Args:
        chain: A shifted chain.
        k: How many.

    Returns:
        tags: (B, k, T) int32, anything at masked positions.
        scores: (B, k), best first; −inf where there are no more sequences. Of equally good ones
            that with the smaller last tag comes first, or else with the smaller one before, …

    References:
        Frank Soong, Eng-Fong Huang, A tree-trellis based fast search for finding the N best
        sentence hypotheses, 1991, https://doi.org/10.1109/ICASSP.1991.150437
    """
    scores = chain.scores
    num_tags = scores.num_tags
    is_first, _ = ends(chain)
    valid, first = (ops.transpose(x)[:, :, None, None] for x in (chain.valid, is_first))
    emissions = ops.transpose(scores.emissions, (1, 0, 2))[:, :, :, None]  # (T, B, K, 1)
    xs = (emissions, valid, first)
    if scores.per_step:
        xs = (*xs, ops.transpose(scores.transitions, (1, 0, 2, 3)))
    # At a first position there is one way to each tag.
    worst = ops.full((num_tags, k - 1), float("-inf"), dtype=emissions.dtype)
    start = ops.concatenate([scores.start[:, None], worst], axis=1)  # (K, k)

    def forward(best: Tensor, xs: Any) -> Any:
        emission, valid, first = xs[:3]
        moves = xs[3] if scores.per_step else scores.transitions[None]
        ways = best[:, None] + ops.transpose(moves, (0, 2, 1))[:, :, :, None]
        ways = ops.reshape(ways, (-1, num_tags, num_tags * k))  # (B, K to, K from · k)
        arrived, origin = top_k(ways, k)  # (B, K, k)
        arrived = ops.where(first, start, arrived) + emission
        return ops.where(valid, arrived, best), (ops.cast(origin, "int32"),)

    zeros = ops.zeros_like(emissions[0]) + ops.zeros_like(start)
    best, (origins,) = scan(forward, zeros, xs, ["int32"])
    ways = ops.reshape(best + scores.end[:, None], (-1, num_tags * k))
    found, way = top_k(ways, k)  # (B, k)
    # An empty chain has one sequence, of no tags.
    alone = ops.concatenate([ops.zeros((1,), found.dtype), worst[0]])
    found = ops.where(ops.any(chain.valid, axis=1)[:, None], found, alone)

    def backward(way: Tensor, xs: Any) -> Any:
        origin, valid, first = xs
        before = ops.take_along_axis(ops.reshape(origin, (-1, num_tags * k)), way, axis=1)
        linked = ops.logical_and(valid, ops.logical_not(first))[:, :, 0]
        return ops.where(linked, before, way), (way // k,)

    way = ops.cast(way, "int32")
    _, (tags,) = scan(backward, way, (origins, valid, first), ["int32"], reverse=True)
    return ops.transpose(tags, (1, 2, 0)), found
