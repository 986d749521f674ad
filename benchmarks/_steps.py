"""What the benchmarks of optimizers share: steps of an optimizer alone, on weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LAYERS, WIDTH = 26, 64


def variables(layers: int = LAYERS, width: int = WIDTH) -> list[Any]:
    """Make the kernels and biases of so many square layers, named `layer_00` and on."""
    import keras

    found = []
    for index in range(layers):
        layer = keras.layers.Dense(width, name=f"layer_{index:02d}")
        layer.build((None, width))
        found += layer.weights
    return found


def optimizer_step(
    optimizer: Any, repeat: int, *, xla: bool = True, layers: int = LAYERS
) -> Callable[[], None]:
    """Make a function that takes `repeat` steps of a Keras optimizer.

    Args:
        optimizer: Not yet built.
        repeat: The number of steps.
        xla: Whether TensorFlow's steps are compiled by XLA, as JAX's are.
        layers: The number of layers whose weights it moves.
    """
    import keras
    import numpy as np

    weights = variables(layers)
    optimizer.build(weights)
    random = np.random.default_rng(0)
    gradients = [
        keras.ops.convert_to_tensor(random.normal(size=w.shape).astype("float32")) for w in weights
    ]
    if keras.backend.backend() == "jax":
        import jax

        step = jax.jit(
            lambda state, held: optimizer.stateless_apply(state, gradients, held),
            donate_argnums=(0, 1),
        )
        held = [[w.value for w in weights], [v.value for v in optimizer.variables]]

        def run() -> None:
            for _ in range(repeat):
                held[0], held[1] = step(held[1], held[0])
            jax.block_until_ready(held)

        return run

    def one() -> None:
        optimizer.apply(gradients, weights)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        one = tf.function(one, jit_compile=xla)

    def run() -> None:
        for _ in range(repeat):
            one()

    return run
