"""Gradients of embeddings on TensorFlow, which hold the rows that were looked up only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def is_sparse(gradient: Any) -> bool:
    """Whether the gradient is TensorFlow's `IndexedSlices`."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(gradient, tf.IndexedSlices)


def dense(gradient: Any) -> Any:
    """The gradient as a tensor of the weight's shape."""
    if not is_sparse(gradient):
        return gradient
    import tensorflow as tf

    # Rows that were looked up several times are summed up; Keras's conversion would keep them.
    return tf.convert_to_tensor(gradient)


def on_values(function: Callable[[Any], Any], gradient: Any) -> Any:
    """`function` of the numbers that the gradient holds, sparse as before.

    Args:
        function: Takes and returns a tensor; it treats each number by itself.
        gradient: A dense or sparse gradient.
    """
    if not is_sparse(gradient):
        return function(gradient)
    import tensorflow as tf

    values = function(gradient.values)
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
