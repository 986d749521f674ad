"""The linear chain on JAX: hand-written derivatives, of every order and in both modes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from finegrain.crf.chain import Chain, Scores
from finegrain.crf.kernels import log_space, probability_space, viterbi, viterbi_compared
from finegrain.crf.score import difference, score

Tensor = Any


def log_prob(chain: Chain, tags: Tensor) -> Tensor:
    """Compute the log-probabilities, (B,), of (B, T) tags."""
    shifted, _ = chain.shifted()
    return difference(score(shifted, tags), _log_partition(shifted))


def log_partition(chain: Chain) -> Tensor:
    """Compute the log-partition, (B,)."""
    shifted, offset = chain.shifted()
    return _log_partition(shifted) + offset


def marginals(chain: Chain) -> Tensor:
    """Compute the probability of each tag at each position: (B, T, K), 0 where masked."""
    shifted, _ = chain.shifted()
    return _counts(shifted)[1].emissions


def best_tags(chain: Chain) -> Tensor:
    """Find the best tags, (B, T) int32; anything where masked."""
    few = chain.scores.num_tags <= viterbi_compared.MOST_TAGS and not chain.scores.per_step
    form = viterbi_compared if few else viterbi
    return form.best_tags(chain.shifted()[0])


@jax.custom_jvp
def _log_partition(chain: Chain) -> Tensor:
    return _counts(chain)[0]


@_log_partition.defjvp
def _(primals: Any, tangents: Any) -> tuple[Tensor, Tensor]:
    (chain,), moved = primals, tangents[0].scores
    total, used = _counts(chain)
    change = jnp.einsum("btk,btk->b", used.emissions, moved.emissions)
    pairs = "btij,btij->b" if chain.scores.per_step else "bij,ij->b"
    change += jnp.einsum(pairs, used.transitions, moved.transitions)
    return total, change + used.start @ moved.start + used.end @ moved.end


@jax.custom_jvp
def _counts(chain: Chain) -> tuple[Tensor, Scores]:
    if chain.scores.per_step:
        return log_space.counts(chain)
    total, used, exact = probability_space.counts(chain)
    return jax.lax.cond(exact, lambda: (total, used), lambda: log_space.counts(chain))


@_counts.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (chain,), (moved,) = primals, tangents

    def plain(scores: Scores) -> Any:
        return log_space.counts(Chain(scores, chain.mask))

    _, derivative = jax.jvp(plain, (chain.scores,), (moved.scores,))
    return _counts(chain), derivative
