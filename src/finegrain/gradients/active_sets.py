"""Two quadratic programs of a few unknowns, solved by trying every set of active constraints.

Both are about m vectors that are given by their Gram matrix. Each set makes an equation system, and
the one whose solution violates nothing, or least, is the solution. There are 2^m of them, which is
few for the number of losses that a model has, and the same arithmetic for any values: nothing
iterates, and a compiled step can contain it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

# Added to the diagonal of the cosines, so that parallel vectors have one solution. It has to be
# more than their rounding in float32, 6e-8 times m; it changes solutions by about as much.
EPSILON = 1e-6

MOST = 10
"""The largest number of vectors."""


def cosines(gram: Any) -> tuple[Any, Any]:
    """Compute the norms, of shape (m,), and the cosines of angles, of shape (m, m).

    Vectors of 0 are at right angles to all others.
    """
    identity = ops.eye(gram.shape[0], dtype="float32")
    norms = ops.sqrt(ops.diagonal(gram))
    units = ops.where(norms > 0, norms, 1.0)
    cosine = gram / (units[:, None] * units[None, :])
    return norms, cosine * (1 - identity) + identity


def onto_dual_cone(cosine: Any) -> Any:
    r"""Project each of m unit vectors $e_i$ onto the vectors at no obtuse angle with any of them.

    The projection is $\sum_j w_{ji} e_j$ of the least norm with $w_{ji} \ge \delta_{ji}$, by
    proposition 1 of https://arxiv.org/abs/2406.16232. With $w = \delta + z$ and $y = Cw$ that is
    $z \ge 0$, $y \ge 0$ and $z_j y_j = 0$ for all $j$: $y_j = 0$ where $j$ is in the active set,
    and $z_j = 0$ elsewhere.

    Args:
        cosine: $C$, a float32 tensor of shape (m, m).

    Returns:
        $w$, a float32 tensor of shape (m, m): a column for each projection.
    """
    count = cosine.shape[0]
    active = _subsets(count)  # (sets, m)
    identity = ops.eye(count, dtype="float32")
    matrix = cosine + EPSILON * identity
    right = -active[:, :, None] * matrix  # C δ is C
    z = _solutions(_restricted(matrix, active), right)  # (sets, m, m)
    y = ops.sum(matrix[None, :, :, None] * (identity + z)[:, None], axis=2)
    outside = 1 - active[:, :, None]
    violation = ops.maximum(ops.max(-z, axis=1), ops.max(-y * outside, axis=1))  # (sets, m)
    return identity + ops.maximum(_least(z, violation[:, None, :]), 0.0)


def of_least_norm(norms: Any, cosine: Any) -> Any:
    r"""Find the point of least norm in the convex hull of m vectors.

    It is $\sum_i \alpha_i g_i$ with $\alpha \ge 0$ and $\sum_i \alpha_i = 1$. With
    $\alpha_i = \beta_i r_i / \sum_j \beta_j r_j$ and $r_i = \min_j |g_j| / |g_i|$ it is
    $\beta \ge 0$ and $C\beta \ge \lambda r$, with equality where $i$ is in the active set and
    $\beta_i = 0$ elsewhere.

    Args:
        norms: $|g_i|$, a float32 tensor of shape (m,).
        cosine: $C$, a float32 tensor of shape (m, m).

    Returns:
        $\alpha$, a float32 tensor of shape (m,).
    """
    count = cosine.shape[0]
    active = _subsets(count)[1:]
    ratio = ops.where(norms > 0, ops.min(norms) / ops.where(norms > 0, norms, 1.0), 1.0)
    matrix = cosine + EPSILON * ops.eye(count, dtype="float32")
    x = _solutions(_restricted(matrix, active), (active * ratio)[:, :, None])[:, :, 0]  # (sets, m)
    total = ops.sum(x * ratio, axis=1, keepdims=True)
    # Positive but for rounding, as the inverse of the matrix is positive definite.
    multiplier = 1 / ops.where(total > 0, total, 1.0)  # λ
    beta = x * multiplier
    slack = ops.sum(matrix * beta[:, None, :], axis=2) - multiplier * ratio
    violation = ops.maximum(ops.max(-beta, axis=1), ops.max(-slack * (1 - active), axis=1))
    violation = ops.where(total[:, 0] > 0, violation, np.inf)
    alpha = ratio * ops.maximum(_least(beta, violation[:, None]), 0.0)
    return alpha / ops.sum(alpha)


def _subsets(count: int) -> Any:
    """Return all subsets of `count` things, the empty one first: 1 for what is in, of float32."""
    if count > MOST:
        raise ValueError(
            f"This combination is for {MOST} losses at most: it tries all their subsets. Add up "
            f"some of the losses. Received: {count} losses"
        )
    numbers = np.arange(2**count)[:, None] >> np.arange(count)
    return ops.convert_to_tensor((numbers & 1).astype("float32"))


def _restricted(matrix: Any, active: Any) -> Any:
    """Return, for each set, the matrix within the set and the identity outside: (sets, m, m)."""
    both = active[:, :, None] * active[:, None, :]
    identity = ops.eye(matrix.shape[0], dtype="float32")
    return both * matrix + (1 - active)[:, :, None] * identity


def _solutions(matrices: Any, right: Any) -> Any:
    """Solve systems of positive definite matrices (n, m, m) by elimination: (n, m, k)."""
    count = matrices.shape[-1]
    identity = ops.eye(count, dtype="float32")
    rows = ops.concatenate([matrices, right], axis=-1)
    for place in range(count):
        # No pivot is less than the least eigenvalue: of cosines plus EPSILON, that is EPSILON.
        pivot = ops.maximum(rows[:, place : place + 1, place : place + 1], EPSILON)
        row = rows[:, place : place + 1, :] / pivot
        itself = identity[:, place : place + 1]
        rows = rows - (rows[:, :, place : place + 1] - itself) * row
    return rows[..., count:]


def _least(values: Any, violation: Any) -> Any:
    """Return the values of the set that violates least; sets are along the first axis."""
    best = ops.one_hot(ops.argmin(violation, axis=0), values.shape[0], axis=0, dtype="float32")
    return ops.sum(values * best, axis=0)
