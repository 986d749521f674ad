"""Derivatives on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Tensor = Any


@tf.custom_gradient
def straight_through(value: Tensor, surrogate: Tensor) -> tuple[Tensor, Callable[..., Any]]:
    """`value`, with the derivatives of `surrogate`."""
    return tf.identity(value), lambda upstream: (None, upstream)


def gradient(function: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor) -> tuple[Tensor, Any]:
    """The gradient of the first output of `function` at `x`, and the second output."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value, rest = function(x)
    return tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO), rest
