"""A moving average of a network's weights."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain._apart import Apart
from finegrain._checks import finite
from finegrain.routing.overlay import Overlay

Tensor = Any


class WeightAverage(keras.layers.Layer):
    r"""The exponential moving average of the weights and statistics of a network.

    $$\bar\theta_t = \beta\, \bar\theta_{t-1} + (1 - \beta)\, \theta_t, \qquad
      \bar\theta_0 = \theta_0$$

    After step $t$ the stored average is $\bar\theta_{t-1}$, because the loss is computed before
    the step is taken. Reading the average adds the term of $\theta_t$, which the network has.

    Args:
        network: The network. It is not a part of this layer.
        momentum: $\beta$, in [0, 1).
        argument: What the momentum is called where the user gives it.
    """

    def __init__(
        self, network: keras.layers.Layer, momentum: float, argument: str, **kwargs: Any
    ) -> None:
        super().__init__(trainable=False, **kwargs)
        self.momentum = checked_momentum(argument, momentum)
        # It stands beside this layer in a model, and in files.
        self._network = Apart(network)
        self.averages: list[Any] = []

    def network(self) -> keras.layers.Layer:
        """Return the network."""
        return self._network.value

    def create(self) -> None:
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
            for i, weight in enumerate(_of(self.network()))
        ]
        self.built = True

    def update(self) -> None:
        """Move the averages toward the network's present weights; call this before each step."""
        for average, weight in zip(self.averages, _of(self.network()), strict=True):
            average.assign(ops.stop_gradient(self._with(average, weight)))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network in inference mode, with the averages for weights, as constants."""
        with self.reading():
            return self.network()(*args, **{**kwargs, "training": False})

    def reading(self) -> Overlay:
        """Make a scope in which the network uses its averaged weights, as constants."""
        weights = _of(self.network())
        averages = {id(w): a for w, a in zip(weights, self.averages, strict=True)}

        def read(weight: Any, value: Tensor) -> Tensor:
            return ops.stop_gradient(self._with(averages[id(weight)], value))

        return Overlay(weights, read)

    def _with(self, average: Any, weight: Any) -> Tensor:
        average, weight = ops.convert_to_tensor(average), ops.convert_to_tensor(weight)
        return weight + self.momentum * (average - weight)


def checked_momentum(argument: str, momentum: Any) -> float:
    """Return the momentum as a float, or raise a `ValueError` if it is not in [0, 1)."""
    number = finite(momentum)
    if number is None or not 0 <= number < 1:
        raise ValueError(f"`{argument}` should be in [0, 1). Received: {argument}={momentum!r}")
    return number


def _of(network: keras.layers.Layer) -> list[Any]:
    return [weight for weight in network.weights if keras.backend.is_float_dtype(weight.dtype)]
