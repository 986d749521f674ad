"""Loops along the time of a chain, and the operations in them, as they suit each backend.

`keras.ops.scan` would do, except that on TensorFlow (Keras 3.15) it takes no second input where the
time is unknown to the graph, puts out nothing but what it carries, and has no bound for XLA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


def scan(
    step: Callable[[Any, Any], tuple[Any, tuple[Tensor, ...]]],
    carry: Any,
    xs: Sequence[Tensor],
    dtypes: Sequence[Any],
    reverse: bool = False,
) -> tuple[Any, tuple[Tensor, ...]]:
    """Loop along the first axis of tensors and carry a value from entry to entry.

    Args:
        step: Takes the carry and the tuple of the present entries of `xs`; returns the new carry
            and a tuple of tensors to put out.
        carry: The first carry, a structure of tensors.
        xs: Tensors (T, ...), T at least 1.
        dtypes: Of what `step` puts out.
        reverse: Whether to begin at the end.

    Returns:
        The last carry, and what was put out at each entry, each (T, ...).
    """
    scan_on_backend = _LOOPS.get(keras.backend.backend(), _scan_one_by_one)
    return scan_on_backend(step, carry, tuple(xs), dtypes, reverse)


def _scan_on_jax(step: Any, carry: Any, xs: Any, dtypes: Any, reverse: bool) -> Any:
    import jax

    return jax.lax.scan(step, carry, xs, reverse=reverse)


def _scan_one_by_one(step: Any, carry: Any, xs: Any, dtypes: Any, reverse: bool) -> Any:
    rows = list(zip(*(ops.unstack(x) for x in xs), strict=True))
    outputs = []
    for row in reversed(rows) if reverse else rows:
        carry, output = step(carry, row)
        outputs.append(output)
    if reverse:
        outputs.reverse()
    return carry, tuple(ops.stack(parts) for parts in zip(*outputs, strict=True))


def _scan_on_tensorflow(step: Any, carry: Any, xs: Any, dtypes: Any, reverse: bool) -> Any:
    import tensorflow as tf

    time = tf.shape(xs[0])[0]
    inputs = [tf.TensorArray(x.dtype, time).unstack(x) for x in xs]
    outputs = [tf.TensorArray(dtype, time) for dtype in dtypes]

    def body(count: Tensor, carry: Any, outputs: Any) -> Any:
        place = time - 1 - count if reverse else count
        carry, put_out = step(carry, tuple(x.read(place) for x in inputs))
        written = zip(outputs, put_out, strict=True)
        return count + 1, carry, [array.write(count, part) for array, part in written]

    _, carry, outputs = tf.while_loop(
        lambda *_: True,
        body,
        (tf.constant(0), carry, outputs),
        maximum_iterations=time,
        parallel_iterations=1,
    )
    # In the order of the turns, which is the one that loops of ONNX put out their results in.
    stacked = [array.stack() for array in outputs]
    return carry, tuple(tf.reverse(x, [0]) if reverse else x for x in stacked)


# On the other backends Python walks, as on torch.
_LOOPS = {"jax": _scan_on_jax, "tensorflow": _scan_on_tensorflow}


def largest(x: Tensor, axis: int) -> Tensor:
    """Find the largest along an axis.

    On TensorFlow, Keras's own checks in each turn of a loop whether there is anything at all.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.reduce_max(x, axis=axis)
    return ops.max(x, axis=axis, initial=-np.inf)


def argmax(x: Tensor) -> Tensor:
    """Find the place of the largest along the last axis of (..., K): (...) int32.

    On TensorFlow, Keras's own first tells −0 from 0: six operations in each turn of a loop.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.argmax(x, axis=-1, output_type="int32")
    return ops.cast(ops.argmax(x, axis=-1), "int32")


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """Take rows (..., K) of a table (N, K) by (...) int32 indices, none of them negative.

    On TensorFlow, Keras's own allows for negative indices, which takes five more operations.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(table, index)
    return ops.take(table, index, axis=0)


def top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest along the last axis of (..., K), and their places: (..., k) each.

    Of equal ones the earlier come first; `torch.topk` promises nothing about them.
    """
    if keras.backend.backend() == "torch":
        import torch

        values, places = torch.sort(x, dim=-1, descending=True, stable=True)
        return values[..., :k], places[..., :k]
    return ops.top_k(x, k)
