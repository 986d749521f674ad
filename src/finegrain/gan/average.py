"""A moving average of a network's weights."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain._checks import finite
from finegrain.routing.overlay import Overlay

Tensor = Any


class WeightAverage(keras.layers.Layer):
    r"""The exponential moving average of the weights and statistics of a network.

    $$\bar\theta_t = \beta\, \bar\theta_{t-1} + (1 - \beta)\, \theta_t, \qquad
      \bar\theta_0 = \theta_0$$

    After step $t$ the stored average is $\bar\theta_{t-1}$, because the loss is computed before
    the step is taken. Reading the average adds the term of $\theta_t$, which the network has.
    """

    def __init__(self, momentum: float, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        number = finite(momentum)
        if number is None or not 0 <= number < 1:
            raise ValueError(
                f"`ema_momentum` should be in [0, 1). Received: ema_momentum={momentum!r}"
            )
        self.momentum = number
        self.averages: list[Any] = []

    def create(self, network: keras.layers.Layer) -> None:
        """Create the averages, equal to the network's present weights, unless they exist."""
        if self.built:
            return
        self.averages = [
            self.add_weight(
                shape=weight.shape,
                dtype=weight.dtype,
                # Copy: JAX donates the buffers of variables.
                initializer=lambda shape, dtype, weight=weight: ops.copy(weight),
                trainable=False,
                name=f"average_{i}",
            )
            for i, weight in enumerate(_of(network))
        ]
        self.built = True

    def update(self, network: keras.layers.Layer) -> None:
        """Move the averages toward the network's present weights; call this before each step."""
        for average, weight in zip(self.averages, _of(network), strict=True):
            average.assign(ops.stop_gradient(self._with(average, weight)))

    def reading(self, network: keras.layers.Layer) -> Overlay:
        """Make a scope in which the network uses its averaged weights."""
        averages = {id(w): a for w, a in zip(_of(network), self.averages, strict=True)}
        return Overlay(_of(network), lambda weight, value: self._with(averages[id(weight)], value))

    def _with(self, average: Any, weight: Any) -> Tensor:
        average, weight = ops.convert_to_tensor(average), ops.convert_to_tensor(weight)
        return weight + self.momentum * (average - weight)


def _of(network: keras.layers.Layer) -> list[Any]:
    return [weight for weight in network.weights if keras.backend.is_float_dtype(weight.dtype)]
