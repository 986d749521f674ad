r"""Sums over tag sequences in probability space: fast, and proven exact for the input at hand.

A step multiplies a message by $M = e^{\text{transitions}}$ and by $E_t = e^{\text{emissions}_t}$
and divides it by its sum. Both directions walk in one loop, each sequence gathered so that its
first step is its first, or its last, valid position: no mask is needed inside.

Log space keeps what is e^-1000 behind, floating point does not. **The certificate** tells whether
that matters. Let μ be the least normal number, and chains be shifted so that all scores are at
most 0.

1. The message from the left gets a floor: $x_t \propto (x_{t-1} M + \delta) E_t$. In a step
   underflow takes less than $(3K + 1)\mu$ from any entry: μ in $M$, μ in each of K products, 2μ in
   $x_{t-1}$ (of its sum, see 2). With $\delta = 2^{16}\mu$ the floor gives more than that back for
   up to 16,000 tags. So the left message is never below the true one.
2. $E_t$ is scaled by a power of two near the largest number, so that the sum $c_t$ by which the
   left message is divided is at least 1, and what underflows in the products with $E_t$ is at most
   2μ of it.
3. The message from the right gets no floor: underflow only takes away. It is never above the true
   one, and as long as its $c_t$ are at least 1 it loses at most $(4K + 1)\mu < \delta$ in a step.
4. Let $W_t$ be the sum over tags of left times right message after t steps, with all that was
   divided out. Before the first step it is the log-partition as seen from the right, which is at
   most the true one; after the last as seen from the left, at least the true one. From one to the
   next it grows by the factor $1 + 2\delta / s_t$ at most. The **overlap** of the two normalized
   messages is $s_t = \sum_j (x_{t-1} M)_j b_{tj}$, with $e^{\text{start}}$ for $x_{t-1} M$ at the
   first position.

So if $s_t \ge 2 \delta T / \varepsilon$ at each of T positions, the log-partition is within ε, and
since all terms are positive each position's marginals, and pairs, are together within 2ε (besides
rounding). Here $\varepsilon = 2^{-20}$ in float32. To see it costs next to nothing: marginals need
the shares $b_{tj} / s_t$ anyway, and since the $b_{tj}$ of K tags add up to 1, no share is above
$\varepsilon / 2 \delta T K$ only where $s_t$ is large enough.

**The bound** follows: $(x_{t-1} M)_j \ge e^{-R}$, where R is the largest range (maximum less
minimum) among transitions, start and end, so the overlap is at least $e^{-R}$ whatever the
emissions. In float32 every chain of 4096 positions and 1024 tags with R ≤ 46 passes. What fails is
rare: parts of the chain that cannot reach each other, of which one leads by 70 nats here and the
other there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import backend, ops

from finegrain.crf.chain import Chain, Scores, ends, only
from finegrain.crf.kernels.loops import scan

Tensor = Any

# Up to so many tags a sum of products is faster than a product of matrices.
MOST_UNROLLED = 10


class Limits(NamedTuple):
    """The constants of the certificate, as exponents of two.

    Attributes:
        floor: Of δ.
        scale: Of the factor on the emissions.
        tolerance: Of ε.
    """

    floor: int
    scale: int
    tolerance: int

    @classmethod
    def of(cls, dtype: Any) -> Limits:
        """Make the limits for a floating-point type."""
        info = np.finfo(backend.standardize_dtype(dtype))
        floor = info.minexp + 16
        # K entries of this size must not overflow: half the exponents' room for 1024 tags.
        scale = info.maxexp - 12
        return cls(floor=floor, scale=scale, tolerance=-20 if info.bits == 32 else -40)


def counts(chain: Chain) -> tuple[Tensor, Scores, Tensor]:
    """Compute the log-partition and its gradients, and say whether they are proven exact.

    Args:
        chain: A shifted chain with transitions that all steps share.

    Returns:
        total: (B,) the log-partition.
        counts: How often each score is used on average, as `log_space.counts` has them.
        exact: () boolean, the certificate for the whole batch.
    """
    limits = Limits.of(chain.scores.emissions.dtype)
    floor = 2.0**limits.floor
    emissions = ops.transpose(chain.scores.emissions, (1, 2, 0))  # (T, K, B)
    # Scaled between two factors, of which none underflows early.
    emissions = ops.square(ops.exp(0.5 * emissions) * 2.0 ** (limits.scale // 2))
    moves, start, end = (ops.exp(part) for part in chain.scores[1:])
    valid = None if chain.mask is None else ops.transpose(chain.mask)[:, None]  # (T, 1, B)
    walk = _walk(emissions, valid, moves, start, end, floor)

    from_right = walk.from_right * emissions / ops.maximum(walk.right_sums, floor)  # (T, K, B)
    overlap = ops.sum(walk.from_left * from_right, axis=1, keepdims=True)  # (T, 1, B)
    share = from_right / ops.maximum(overlap, floor)
    right_sums = walk.right_sums
    norms = ops.log(walk.left_sums * 2.0**-limits.scale)  # (T, 1, B)
    least = 2.0 * floor * 2.0**-limits.tolerance * ops.cast(ops.shape(overlap)[0] + 1, share.dtype)
    ending = ops.sum(walk.last * end[:, None], axis=0)  # (B,)
    if valid is None:
        some = ending >= 0
    else:
        share, norms = only(valid, share), only(valid, norms)
        right_sums = ops.where(valid, right_sums, ops.ones_like(right_sums))
        some = ops.any(chain.mask, axis=1)
    marginals = ops.transpose(walk.from_left * share, (2, 0, 1))
    is_first, is_last = ends(chain)
    used = Scores(
        emissions=marginals,
        transitions=ops.einsum("tib,tjb->bij", walk.before, share) * moves,
        # A forbidden first tag still holds what the floor put there.
        start=only(start > 0, ops.sum(only(is_first[:, :, None], marginals), axis=1)),
        end=ops.sum(only(is_last[:, :, None], marginals), axis=1),
    )
    ended = ops.log(ops.where(some, ops.maximum(ending, floor), ops.ones_like(ending)))
    met = ops.logical_or(ending >= least, ops.logical_not(some))
    # Shares add up to 1 / overlap. A compiler would need one more loop for the overlaps themselves.
    least_overlap = 1.0 / (chain.scores.num_tags * ops.max(share, initial=0.0))
    certified = ops.logical_and(least_overlap >= least, ops.all(right_sums >= 1))
    exact = ops.logical_and(certified, ops.all(met))
    return ops.sum(norms, axis=(0, 1)) + ended, used, exact


class Walk(NamedTuple):
    """The messages and sums that a walk in both directions finds at each position.

    Attributes:
        from_left: (T, K, B) what comes before, before this position's emissions.
        from_right: (T, K, B) what comes after.
        left_sums: (T, 1, B) by which the left message is divided here.
        right_sums: (T, 1, B) by which the right one is.
        before: (T, K, B) the left message of the last valid position before; zero if none.
        last: (K, B) the left message of the last valid position.
    """

    from_left: Tensor
    from_right: Tensor
    left_sums: Tensor
    right_sums: Tensor
    before: Tensor
    last: Tensor


def _walk(
    emissions: Tensor, valid: Tensor | None, moves: Tensor, start: Tensor, end: Tensor, floor: float
) -> Walk:
    """Walk in both directions in one loop, with the batch last, which vectorizes for any K."""
    num_tags = emissions.shape[1]
    both = ops.stack([emissions, ops.flip(emissions, axis=0)], axis=1)  # (T, 2, K, B)
    both_moves = ops.stack([ops.transpose(moves), moves])  # (2, K to, K from)
    floors = ops.convert_to_tensor([[[floor]], [[0.0]]], dtype=both.dtype)  # (2, 1, 1)
    prior = ops.stack([start, end])[:, :, None] + floors + ops.zeros_like(both[0])  # (2, K, B)
    xs = (both,)
    if valid is not None:
        xs = (both, ops.stack([valid, ops.flip(valid, axis=0)], axis=1))  # (T, 2, 1, B)

    def step(carry: tuple[Tensor, Tensor], xs: Any) -> Any:
        prior, before = carry
        arrived = prior * xs[0]
        sums = ops.sum(arrived, axis=1, keepdims=True)  # (2, 1, B)
        message = arrived / ops.maximum(sums, floor)
        if num_tags <= MOST_UNROLLED:
            moved = message[:, :1] * both_moves[:, :, :1]
            for tag in range(1, num_tags):
                moved = moved + message[:, tag : tag + 1] * both_moves[:, :, tag : tag + 1]
        else:
            moved = ops.matmul(both_moves, message)
        after, here = moved + floors, message[0]
        if valid is not None:
            after = ops.where(xs[1], after, prior)
            here = ops.where(xs[1][0], here, before)
        return (after, here), (prior, sums, before)

    carry = (prior, ops.zeros_like(prior[0]))
    (_, last), (priors, sums, before) = scan(step, carry, xs, [both.dtype] * 3)
    return Walk(
        from_left=priors[:, 0],
        from_right=ops.flip(priors[:, 1], axis=0),
        left_sums=sums[:, 0],
        right_sums=ops.flip(sums[:, 1], axis=0),
        before=before,
        last=last,
    )
