"""ReverseGradient: a layer whose gradient goes back with the other sign."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from finegrain._backend import backend
from finegrain._checks import finite
from finegrain.routing import reverse_gradient
from finegrain.schedules.parts import LearningRateSchedule, Part, restored, serialized

Tensor = Any


@keras.saving.register_keras_serializable(package="finegrain")
class ReverseGradient(keras.layers.Layer):
    r"""Passes its inputs on, and their gradient back times a factor of the other sign.

    $$y = x, \qquad \frac{\partial L}{\partial x} = -c \, \frac{\partial L}{\partial y}$$

    The layers before it learn to do badly what the layers after it learn to do well: features that
    do not tell domains apart, say.

    Args:
        factor: $c$, a finite number, or a Keras `LearningRateSchedule` such as
            `finegrain.schedules.DomainAdversarial`, which is read at the number of training calls
            so far. A number can be changed at any time: `layer.factor = 0.3`, or
            `layer.factor.assign(0.3)`. The next step uses it, on each backend.
        **kwargs: Keras's own, such as `name`.

    Input: a tensor of floats, or a list, tuple or dict of these. Output: the like, with its mask.

    Raises:
        TypeError: if `factor` is neither a number nor a schedule, or, in a call, for integers.
        ValueError: if `factor` is not finite.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> reverse = fg.layers.ReverseGradient(0.5)
    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
    ...     reverse])
    >>> model.compile(keras.optimizers.SGD(1.0), loss=lambda y, prediction: prediction)
    >>> x = np.ones((1, 1), "float32")
    >>> model.train_on_batch(x, x)  # the value is 1, its gradient -0.5
    1.0
    >>> reverse.factor = 0.25
    >>> model.train_on_batch(x, x)  # from 1 + 0.5
    1.5
    >>> print(model.layers[0].get_weights()[0].item())
    1.75

    References:
        Yaroslav Ganin, Victor Lempitsky, Unsupervised domain adaptation by backpropagation, 2015,
        https://arxiv.org/abs/1409.7495

    Notes:
        - The number of training calls, an integer weight, is saved with the model. A layer that is
          used twice in a step counts two. `predict` and `evaluate` count none.
        - On JAX the weights of a model are, in the middle of an epoch, in the compiled step. To
          read `layer.factor` in a callback fetches them, as Keras's `self.model` does. So ask the
          layer anew at each step: what is assigned to a variable that you kept is lost. Fetching
          costs time at each step; a schedule costs none.
        - `finegrain.routing.reverse_gradient` is the function of it, for use in a `call`.
    """

    def __init__(self, factor: Part = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self._schedule: Any = factor if isinstance(factor, LearningRateSchedule) else None
        if self._schedule is None:
            self._first = _checked_factor(factor)
            self._factor = self.add_weight(
                (),
                keras.initializers.Constant(self._first),
                "float32",
                trainable=False,
                autocast=False,
                name="factor",
            )
        else:
            self._calls = self.add_weight(
                (), "zeros", "int32", trainable=False, autocast=False, name="training_calls"
            )

    @property
    def factor(self) -> Any:
        """The variable that holds the factor, or the schedule."""
        if self._schedule is not None:
            return self._schedule
        backend.attach(self._factor)
        return self._factor

    @factor.setter
    def factor(self, value: float) -> None:
        if self._schedule is not None:
            raise TypeError(
                "A schedule says what the factor is: to change it yourself, make the layer with a "
                f"number. Received: factor={value!r} for a layer with {self._schedule!r}"
            )
        self.factor.assign(_checked_factor(value))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the inputs, and count the call if it is one of training."""
        if self._schedule is None:
            return reverse_gradient(inputs, self._factor)
        factor = keras.ops.convert_to_tensor(self._schedule(self._calls))
        if training:
            self._calls.assign_add(1)
        return reverse_gradient(inputs, factor)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape, or shapes, of the inputs."""
        return input_shape

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Return symbolic tensors like the inputs."""
        return keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype), inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        factor = self._first if self._schedule is None else serialized(self._schedule)
        return super().get_config() | {"factor": factor}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> ReverseGradient:
        """Make the layer that `get_config` describes."""
        return cls(**config | {"factor": restored(config["factor"], custom_objects)})


def _checked_factor(value: Any) -> float:
    number = finite(value)
    if number is None:
        kind = ValueError if isinstance(value, float | np.floating) else TypeError
        raise kind(
            "`factor` should be a finite number, or a LearningRateSchedule, which is saved with "
            f"the model as a function is not. Received: factor={value!r}"
        )
    return number
