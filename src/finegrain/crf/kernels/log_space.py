r"""The recursions of a linear chain in log space, by `keras.ops` alone: right everywhere.

They are the reference for the faster forms, what those fall back to, and what their derivatives of
second order go through. Time comes first in all loops; a masked position hands on what reached
it, so that holes, padding on either side and empty chains need no special case. The messages are
normalized at each step and what is taken out is summed apart: sums over thousands of positions
keep their digits.

The conditional probability of the tag $j$ at a position, given the tag $i$ before it, is

$$p(j \mid i) \propto \exp(\text{transitions}_{ij} + \text{emissions}_j + f_j),$$

where $f_j$ is the log-sum of all that may come after $j$.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from finegrain.crf.chain import Chain, Scores, ends, only
from finegrain.crf.kernels.loops import scan

Tensor = Any


def log_sum_exp(x: Tensor, axis: int) -> Tensor:
    r"""Compute $\log\sum e^x$ along `axis`.

    All $-\infty$ gives $-\infty$ with gradient zero, never NaN.
    """
    peak = ops.stop_gradient(ops.max(x, axis=axis, keepdims=True, initial=float("-inf")))
    peak = ops.where(ops.isfinite(peak), peak, ops.zeros_like(peak))
    total = ops.sum(ops.exp(x - peak), axis=axis)
    positive = total > 0
    log_total = ops.log(ops.where(positive, total, ops.ones_like(total)))
    minus_infinity = ops.full_like(log_total, float("-inf"))
    return ops.where(positive, log_total + ops.squeeze(peak, axis=axis), minus_infinity)


def softmax(x: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    """Compute shares of the total of exp(x); all −inf gives zeros with gradient zero, never NaN."""
    peak = ops.stop_gradient(ops.max(x, axis=axes, keepdims=True, initial=float("-inf")))
    peak = ops.where(ops.isfinite(peak), peak, ops.zeros_like(peak))
    shares = ops.exp(x - peak)
    total = ops.sum(shares, axis=axes, keepdims=True)
    return shares / ops.where(total > 0, total, ops.ones_like(total))


def finite(x: Tensor) -> Tensor:
    """Return `x` with 0 instead of −inf, for sums in which the impossible has the weight 0."""
    return ops.where(ops.isfinite(x), x, ops.zeros_like(x))


class Step(NamedTuple):
    """One position: emission (B, K), valid and first (B, 1), transitions (1 or B, K, K)."""

    emission: Tensor
    valid: Tensor
    first: Tensor
    transitions: Tensor


def forward(chain: Chain) -> tuple[Tensor, Tensor]:
    """Walk from the first position to the last, and sum over all that may come before each.

    Returns:
        total: (B,) the log-partition; 0 for an empty chain.
        reaching: (T, B, K) the normalized log-sums of all that ends in each tag of the last valid
            position before.
    """
    scores = chain.scores
    message = ops.zeros_like(scores.emissions[:, 0])  # (B, K)

    def step(carry: tuple[Tensor, Tensor], xs: Any) -> Any:
        message, norm = carry
        at = step_of(chain, xs)
        arrived = _arriving(at, message, scores.start) + at.emission  # (B, K)
        level = log_sum_exp(arrived, axis=1)  # (B,)
        norm = norm + ops.where(at.valid[:, 0], level, ops.zeros_like(level))
        after = ops.where(at.valid, arrived - finite(level)[:, None], message)
        return (after, norm), (message,)

    carry = (message, message[:, 0])
    (last, norm), (reaching,) = scan(step, carry, columns(chain), [message.dtype])
    total = norm + log_sum_exp(last + scores.end[None], axis=1)
    # Without a possible sequence the total has no gradient; earlier sums were detached.
    impossible = ops.equal(total, -np.inf)
    total = ops.where(impossible, ops.full_like(total, -np.inf), total)
    return ops.where(ops.any(chain.valid, axis=1), total, ops.zeros_like(total)), reaching


def backward(
    chain: Chain,
    visit: Callable[[Step, Tensor, Any, Sequence[Tensor]], tuple[Any, tuple[Tensor, ...]]],
    carry: Any,
    dtypes: Sequence[Any],
    more: Sequence[Tensor] = (),
) -> tuple[Any, tuple[Tensor, ...]]:
    """Walk from the last position to the first, and sum over all that may come after each.

    Args:
        chain: The chain.
        visit: Called with each position, the (B, K) normalized log-sums of all that may follow
            each of its tags, its own carry, and the entries of `more`; returns its new carry and
            what to put out.
        carry: The first carry of `visit`.
        dtypes: Of what `visit` puts out.
        more: Further tensors (T, B, …) to walk along.

    Returns:
        The last carry, and what `visit` put out, each (T, B, …).
    """
    along = columns(chain)

    def step(carry: tuple[Tensor, Any], xs: Any) -> Any:
        following, own = carry
        at = step_of(chain, xs[: len(along)])
        own, out = visit(at, following, own, xs[len(along) :])
        behind = log_sum_exp(conditional(at, following), axis=2)  # (B, K)
        behind = behind - finite(log_sum_exp(behind, axis=1))[:, None]
        return (ops.where(at.valid, behind, following), own), out

    end = ops.zeros_like(chain.scores.emissions[:, 0]) + chain.scores.end[None]
    scanned = scan(step, (end, carry), (*along, *more), dtypes, reverse=True)
    (_, carry), out = scanned
    return carry, out


def conditional(at: Step, following: Tensor) -> Tensor:
    """Compute the logits of each tag here, given each tag at the position before: (B, K, K)."""
    return at.transitions + (at.emission + following)[:, None, :]


def counts(chain: Chain) -> tuple[Tensor, Scores]:
    """Compute the log-partition, and how often each score is used on average.

    Returns:
        total: (B,).
        counts: The gradients of each example's log-partition: emissions (B, T, K), which are the
            marginals; transitions (B, K, K), or (B, T, K, K) where each step has its own; start
            and end (B, K).
    """
    total, reaching = forward(chain)
    dtype, per_step = reaching.dtype, chain.scores.per_step

    def visit(at: Step, following: Tensor, used: Tensor, more: Any) -> Any:
        (message,) = more
        marginal = _arriving(at, message, chain.scores.start) + at.emission + following
        marginal = only(at.valid, softmax(marginal, 1))
        pairs = softmax(message[:, :, None] + conditional(at, following), (1, 2))
        pairs = only(_linked(at)[:, :, None], pairs)
        if per_step:
            return used, (marginal, pairs)
        return used + pairs, (marginal,)

    emission = ops.zeros_like(chain.scores.emissions[:, 0])
    used = emission[:, :, None] * emission[:, None, :]  # (B, K, K)
    dtypes = [dtype, dtype] if per_step else [dtype]
    used, out = backward(chain, visit, used, dtypes, [reaching])
    marginals = ops.transpose(out[0], (1, 0, 2))
    is_first, is_last = ends(chain)
    return total, Scores(
        emissions=marginals,
        transitions=ops.transpose(out[1], (1, 0, 2, 3)) if per_step else used,
        start=ops.sum(only(is_first[:, :, None], marginals), axis=1),
        end=ops.sum(only(is_last[:, :, None], marginals), axis=1),
    )


def pairs(chain: Chain) -> Tensor:
    """Compute (B, T, K, K) probabilities of tag pairs, at the valid position before and here."""
    _, reaching = forward(chain)

    def visit(at: Step, following: Tensor, nothing: Any, more: Any) -> Any:
        share = softmax(more[0][:, :, None] + conditional(at, following), (1, 2))
        return nothing, (only(_linked(at)[:, :, None], share),)

    _, (found,) = backward(chain, visit, reaching[0], [reaching.dtype], [reaching])
    return ops.transpose(found, (1, 0, 2, 3))


def entropy(chain: Chain) -> Tensor:
    """Compute the entropy in nats, (B,), by the chain rule.

    It is the sum of the entropies of each tag given the one before it. All terms are positive: no
    digits are lost, whatever the scores. The carry has the entropy of all that follows each tag,
    (B, K).
    """

    def visit(at: Step, following: Tensor, carry: Any, more: Any) -> Any:
        later, _ = carry
        shares = softmax(conditional(at, following), 2)  # (B, K, K)
        given = ops.sum(surprise(shares) + shares * later[:, None, :], axis=2)  # (B, K)
        first = softmax(chain.scores.start[None] + at.emission + following, 1)
        whole = ops.sum(surprise(first) + first * later, axis=1)  # (B,)
        return (ops.where(at.valid, given, later), ops.where(at.first[:, 0], whole, carry[1])), ()

    zeros = ops.zeros_like(chain.scores.emissions[:, 0])
    (_, whole), _ = backward(chain, visit, (zeros, zeros[:, 0]), [])
    return whole


def surprise(shares: Tensor) -> Tensor:
    """Compute −p log p; 0 with gradient 0 at p = 0."""
    positive = shares > 0
    return ops.where(
        positive, -shares * ops.log(ops.where(positive, shares, ops.ones_like(shares))), 0.0
    )


def columns(chain: Chain) -> tuple[Tensor, ...]:
    """Collect the tensors that the loops walk along, time first."""
    emissions, transitions = chain.scores.emissions, chain.scores.transitions
    is_first, _ = ends(chain)
    found = (
        ops.transpose(emissions, (1, 0, 2)),
        ops.transpose(chain.valid)[:, :, None],
        ops.transpose(is_first)[:, :, None],
    )
    if chain.scores.per_step:
        found = (*found, ops.transpose(transitions, (1, 0, 2, 3)))
    return found


def step_of(chain: Chain, at: Sequence[Tensor]) -> Step:
    """Make the `Step` of one position of `columns`."""
    if chain.scores.per_step:
        return Step(*at)
    return Step(*at, transitions=chain.scores.transitions[None])


def _arriving(at: Step, message: Tensor, start: Tensor) -> Tensor:
    """Compute the log-sum of all that comes before each tag, (B, K)."""
    arrived = log_sum_exp(message[:, :, None] + at.transitions, axis=1)
    return ops.where(at.first, start[None], arrived)


def _linked(at: Step) -> Tensor:
    """Return whether a position is valid and has a valid one before it, (B, 1)."""
    return ops.logical_and(at.valid, ops.logical_not(at.first))
