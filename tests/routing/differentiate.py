"""Values and gradients of functions that call Keras layers, on whichever backend, as NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()


class Result(NamedTuple):
    """What a function gave, and its gradients."""

    value: np.ndarray
    weights: list[np.ndarray]
    """For each trainable weight; zeros where none reaches it."""
    inputs: np.ndarray


def differentiate(
    function: Callable[[Any], Any],
    x: np.ndarray,
    layers: Sequence[keras.layers.Layer] = (),
    *,
    compiled: bool = False,
) -> Result:
    """The sum of `function(x)` with its gradients at x and at the trainable weights of `layers`.

    What the function assigns to variables stays assigned. With `compiled` JAX and TensorFlow go
    through XLA; PyTorch stays eager.
    """
    trainable = list({id(v): v for layer in layers for v in layer.trainable_variables}.values())
    others = list({id(v): v for layer in layers for v in layer.non_trainable_variables}.values())
    run = {"jax": _on_jax, "torch": _on_torch, "tensorflow": _on_tensorflow}[BACKEND]
    value, *gradients = run(lambda x: ops.sum(function(x)), x, trainable, others, compiled)
    arrays = [
        np.zeros(source.shape) if gradient is None else array(gradient)
        for source, gradient in zip([*trainable, x], gradients, strict=True)
    ]
    return Result(array(value), arrays[:-1], arrays[-1])


def array(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.stop_gradient(tensor)))


def arrays(variables: Sequence[Any]) -> list[np.ndarray]:
    return [np.array(array(variable)) for variable in variables]


def _on_jax(function, x, trainable, others, compiled):
    import jax

    def pure(weights, x, state):
        mapping = [*zip(trainable, weights, strict=True), *zip(others, state, strict=True)]
        with keras.StatelessScope(mapping) as scope:
            value = function(x)
        return value, [scope.get_current_value(variable) for variable in others]

    run = jax.value_and_grad(pure, argnums=(0, 1), has_aux=True)
    run = jax.jit(run) if compiled else run
    (value, state), (weights, inputs) = run(
        [v.value for v in trainable], ops.convert_to_tensor(x), [v.value for v in others]
    )
    for variable, new in zip(others, state, strict=True):
        variable.assign(new)
    return value, *weights, inputs


def _on_torch(function, x, trainable, others, compiled):
    import torch

    x = ops.convert_to_tensor(np.array(x)).requires_grad_()
    value = function(x)
    sources = [*(v.value for v in trainable), x]
    if not value.requires_grad:
        return value, *(None for _ in sources)
    return value.detach(), *torch.autograd.grad(value, sources, allow_unused=True)


def _on_tensorflow(function, x, trainable, others, compiled):
    import tensorflow as tf

    sources = [v.value for v in trainable]

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        zero = tf.UnconnectedGradients.ZERO
        return value, *tape.gradient(value, [*sources, x], unconnected_gradients=zero)

    run = tf.function(run, jit_compile=True) if compiled else run
    return run(ops.convert_to_tensor(x))
