"""Values on backends that finegrain has no derivatives for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras

from finegrain.backends import WITHOUT_GRADIENTS, no_kernel

Tensor = Any


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value`, where there are no derivatives."""
    if keras.backend.backend() not in WITHOUT_GRADIENTS:
        raise no_kernel("A gradient that is not the function's own")
    return value


def gradient(function: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor) -> tuple[Tensor, Any]:
    """An error: `keras.ops` has no gradients."""
    raise no_kernel("A loss that takes a gradient")


def compute_before_updates(tensors: Iterable[Tensor], variables: Iterable[Any]) -> None:
    """Nothing to do: a value that was read stays what it was."""
