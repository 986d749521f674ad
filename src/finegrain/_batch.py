"""Batches of tensors, and of dicts, lists or tuples of tensors."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any
Shape = tuple[int | None, ...]


def batch_size(x: Any) -> Any:
    """Return how many samples a structure of tensors holds, a number or a scalar tensor.

    Args:
        x: A tensor (batch, …), or a structure of these; parts that are `None` do not count.
    """
    return next(ops.shape(leaf)[0] for leaf in keras.tree.flatten(x) if leaf is not None)


def along_batch(values: Tensor, x: Tensor) -> Tensor:
    """Return one value for each sample, (batch,), so that it broadcasts along those of `x`.

    Args:
        values: (batch,), of any dtype.
        x: (batch, …).

    Returns:
        (batch, 1, …), of the rank of `x`.
    """
    return ops.reshape(values, (-1,) + (1,) * (len(x.shape) - 1))


def shapes_fit(one: Shape, other: Shape) -> bool:
    """Tell whether two shapes can be the same, where `None` stands for a size that is unknown."""
    return len(one) == len(other) and all(
        None in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True)
    )
