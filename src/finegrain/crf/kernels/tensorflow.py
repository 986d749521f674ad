"""The linear chain on TensorFlow: hand-written derivatives, of every order and in both modes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from finegrain.crf.chain import Chain, Scores
from finegrain.crf.kernels import (
    log_space,
    probability_space,
    viterbi,
    viterbi_compared,
    viterbi_in_graphs,
)
from finegrain.crf.score import difference, score

Tensor = Any

FORBIDDEN = -1e30
"""Below all scores that matter; the sum of a hundred million of them is a float32 still."""


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
    scores = chain.scores
    if scores.per_step:
        return viterbi.best_tags(chain.shifted()[0])
    compiled = GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    if compiled and scores.num_tags <= viterbi_compared.MOST_TAGS:
        return viterbi_compared.best_tags(chain.shifted()[0])
    return viterbi_in_graphs.best_tags(_finite(chain).shifted()[0])


def _finite(chain: Chain) -> Chain:
    """Put scores far below all others in the place of −inf: a sequence with one is never the best.

    They are for models in ONNX, to which tf2onnx translates `where(condition, x, y)` as
    condition · x + (1 − condition) · y.
    """
    return chain._replace(scores=Scores(*(tf.maximum(x, FORBIDDEN) for x in chain.scores)))


def _log_partition(chain: Chain) -> Tensor:
    @tf.custom_gradient
    def value(*scores: Tensor) -> Any:
        total, used = _either(chain)

        def gradient(upstream: Tensor) -> Any:
            return _weighted(chain.mask, used, upstream, *scores)

        return total, gradient

    return value(*chain.scores)


def _counts(chain: Chain) -> tuple[Tensor, Scores]:
    def plain(*scores: Tensor) -> tuple[Tensor, ...]:
        total, used = log_space.counts(Chain(Scores(*scores), chain.mask))
        return (total, *used)

    @tf.custom_gradient
    def value(*scores: Tensor) -> Any:
        total, used = _either(chain)

        def gradient(*upstream: Tensor) -> Any:
            return _vector_jacobian(plain, scores, upstream)

        return (total, *used), gradient

    total, *used = value(*chain.scores)
    return total, Scores(*used)


def _either(chain: Chain) -> tuple[Tensor, Scores]:
    if chain.scores.per_step:
        return log_space.counts(chain)
    total, used, exact = probability_space.counts(chain)
    return tf.cond(exact, lambda: (total, used), lambda: log_space.counts(chain))


def _weighted(mask: Tensor | None, used: Scores, upstream: Tensor, *scores: Tensor) -> Any:
    """Compute the gradient of the log-partition, itself differentiable through log space."""
    pairs = "btij,b->btij" if used.transitions.shape.rank == 4 else "bij,b->ij"

    def weigh(used: Scores, upstream: Tensor) -> tuple[Tensor, ...]:
        return (
            used.emissions * upstream[:, None, None],
            tf.einsum(pairs, used.transitions, upstream),
            tf.einsum("bk,b->k", used.start, upstream),
            tf.einsum("bk,b->k", used.end, upstream),
        )

    def plain(upstream: Tensor, *scores: Tensor) -> tuple[Tensor, ...]:
        return weigh(log_space.counts(Chain(Scores(*scores), mask))[1], upstream)

    @tf.custom_gradient
    def value(upstream: Tensor, *scores: Tensor) -> Any:
        def gradient(*further: Tensor) -> Any:
            return _vector_jacobian(plain, (upstream, *scores), further)

        return weigh(used, upstream), gradient

    return value(upstream, *scores)


def _vector_jacobian(function: Any, arguments: Any, upstream: Any) -> Any:
    with tf.GradientTape() as tape:
        arguments = [tf.identity(argument) for argument in arguments]
        tape.watch(arguments)
        outputs = function(*arguments)
    return tape.gradient(
        outputs, arguments, list(upstream), unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
