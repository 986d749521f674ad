"""Norms of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import ops


def checked_order(order: Any) -> float:
    """Return the order as 1, 2 or infinity, or raise an error."""
    known = isinstance(order, (int, float, str)) and not isinstance(order, bool)
    if not known or order not in (1, 2, math.inf, "inf"):
        raise ValueError(f"`ord` should be 1, 2 or float('inf'). Received: ord={order!r}")
    return math.inf if order == "inf" else int(order) if order != math.inf else math.inf


def config_order(order: float) -> int | str:
    """Return the order in a form fit for a config, where infinity is `"inf"`."""
    return "inf" if order == math.inf else int(order)


def norm(values: Any, order: float, axis: Any = None, keepdims: bool = False) -> Any:
    """Compute the norm over `axis`, in float32 or better."""
    if ops.dtype(values) in ("float16", "bfloat16"):
        values = ops.cast(values, "float32")
    if order == 1:
        return ops.sum(ops.abs(values), axis=axis, keepdims=keepdims)
    largest = ops.max(ops.abs(values), axis=axis, keepdims=True, initial=0)
    if order == 2:
        # Divide by the largest, so that no square overflows or vanishes.
        unit = ops.where((largest > 0) & ops.isfinite(largest), largest, ops.ones_like(largest))
        return ops.sqrt(ops.sum(ops.square(values / unit), axis=axis, keepdims=keepdims)) * (
            unit if keepdims else ops.squeeze(unit, axis=axis)
        )
    return largest if keepdims else ops.squeeze(largest, axis=axis)


def joint_norm(tensors: Sequence[Any], order: float) -> Any:
    """Compute the norm of all numbers in `tensors` together."""
    return norm(ops.stack([norm(tensor, order) for tensor in tensors]), order)


def unit_axes(rank: int) -> tuple[int, ...]:
    """Return the axes that one unit of a weight spans: all but the last, that of the units.

    A vector or a scalar is one unit.
    """
    return tuple(range(rank if rank < 2 else rank - 1))


def scaled(gradient: Any, scale: Any) -> Any:
    """Multiply `gradient` by `scale` in the dtype of `scale`, then cast to the gradient's own."""
    return ops.cast(ops.cast(gradient, scale.dtype) * scale, gradient.dtype)
