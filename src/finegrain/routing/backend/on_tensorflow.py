"""Derivatives on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def compute_before_updates(tensors: Iterable[Tensor], variables: Iterable[Any]) -> None:
    """Has the tensors computed before any of the Keras variables is assigned its next value.

    TensorFlow orders each reading of a variable before the next assignment by an edge, which its
    graph optimizer takes away where it sees a longer way from the one to the other. Keras hands
    gradients on in one bundle, so that such a way leads through the gradients of other weights;
    and in its next pass the optimizer opens the bundle. What was read for the gradients of others
    alone is then ordered no more, and sometimes the assignment comes first. From a reading that
    nobody uses there is no longer way.
    """
    if tf.executing_eagerly():
        return
    with tf.control_dependencies(list(tensors)):
        for variable in variables:
            variable._value.read_value()
