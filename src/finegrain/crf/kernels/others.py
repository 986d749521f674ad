"""The linear chain by `keras.ops` alone, in log space: on any backend, with its own derivatives."""

from __future__ import annotations

from typing import Any

from finegrain.crf.chain import Chain
from finegrain.crf.kernels import log_space, viterbi
from finegrain.crf.score import difference, score

Tensor = Any

__all__ = ["best_tags", "log_partition", "log_prob", "marginals", "score"]


def log_prob(chain: Chain, tags: Tensor) -> Tensor:
    """Compute the log-probabilities, (B,), of (B, T) tags."""
    shifted, _ = chain.shifted()
    return difference(score(shifted, tags), log_space.forward(shifted)[0])


def log_partition(chain: Chain) -> Tensor:
    """Compute the log-partition, (B,)."""
    shifted, offset = chain.shifted()
    return log_space.forward(shifted)[0] + offset


def marginals(chain: Chain) -> Tensor:
    """Compute the probability of each tag at each position: (B, T, K), 0 where masked."""
    return log_space.counts(chain.shifted()[0])[1].emissions


def best_tags(chain: Chain) -> Tensor:
    """Find the best tags, (B, T) int32; anything where masked."""
    return viterbi.best_tags(chain.shifted()[0])
