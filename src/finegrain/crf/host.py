"""What a step can tell the host while it runs, be it compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


def known(x: Tensor) -> bool:
    """Whether a tensor has values by now, instead of being traced by a compiler."""
    backend = keras.backend.backend()
    if backend == "jax":
        from jax.core import Tracer

        return not isinstance(x, Tracer)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.executing_eagerly()
    return True


def call_if(condition: Tensor, function: Callable[..., None], tensors: Sequence[Tensor]) -> bool:
    """Calls a function of NumPy arrays when a condition turns out to hold.

    What it raises ends the step: as itself where operations run one by one (PyTorch, and all
    backends outside of compiled functions), inside a `JaxRuntimeError` on JAX, and inside an
    `InvalidArgumentError` on TensorFlow.

    Args:
        condition: A boolean scalar.
        function: What to call. A step that was vectorized may call it where the condition does not
            hold.
        tensors: What it takes.

    Returns:
        Whether the host can be reached from here. From what XLA compiles on TensorFlow
        (`jit_compile=True`) and from transforms of `torch.func` it cannot.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return _call_if_on_torch(condition, function, tensors)
    if known(condition):
        _call_now(condition, function, tensors)
    elif backend == "jax":
        import jax

        arguments = tuple(jax.lax.stop_gradient(x) for x in tensors)
        jax.lax.cond(condition, lambda: jax.debug.callback(function, *arguments), lambda: None)
    else:
        return _call_if_in_graph(condition, function, tensors)
    return True


def _call_now(condition: Tensor, function: Callable[..., None], tensors: Sequence[Tensor]) -> None:
    if bool(condition):
        function(*(ops.convert_to_numpy(x) for x in tensors))


def _call_if_on_torch(condition: Tensor, function: Any, tensors: Sequence[Tensor]) -> bool:
    import torch

    if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    # A compiled step is interrupted for it: what comes back from the host cannot be traced.
    uncompiled: Any = torch.compiler.disable(_call_now)
    uncompiled(condition, function, tensors)
    return True


def _call_if_in_graph(condition: Tensor, function: Any, tensors: Sequence[Tensor]) -> bool:
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return False

    def call() -> Any:
        def report(*values: Any) -> None:
            function(*(np.asarray(value) for value in values))

        return tf.py_function(report, [tf.stop_gradient(x) for x in tensors], [])

    tf.cond(condition, call, tf.no_op)
    return True
