"""The base class of gradient transforms, and the check of what one returns."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from finegrain.rules.selection import weight_path


class GradientTransform(ABC):
    r"""Changes the gradients of the weights that its rule selects.

    `PerWeight` calls it once in each real step, after gradient accumulation and loss unscaling
    and before the optimizer's own clipping, compiled with the rest of the step.

    A subclass defines `__call__`. So that models with it can be saved, it also defines `get_config`
    and is registered with `keras.saving.register_keras_serializable`. It makes its state in `build`
    with `add_variable`; the state is saved and resumed with the optimizer.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> class Momentum(fg.gradients.GradientTransform):
    ...     def build(self, variables):
    ...         self.sums = [self.add_variable("sum", v.shape, weight=v) for v in variables]
    ...     def __call__(self, gradients, variables):
    ...         sums = dict(zip([v.path for v in self.weights], self.sums))
    ...         for gradient, variable in zip(gradients, variables):
    ...             slot = sums[variable.path]
    ...             slot.assign(0.5 * slot + gradient)
    ...         return [sums[variable.path] + 0.0 for variable in variables]
    >>> weight = keras.Variable([0.0], name="w")
    >>> rule = fg.Rule("w", gradient=Momentum())
    >>> optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), [rule])
    >>> for _ in range(2):
    ...     optimizer.apply([keras.ops.ones(1)], [weight])
    >>> print(keras.ops.convert_to_numpy(weight))
    [-2.5]
    """

    weights: Sequence[keras.Variable] = ()
    """The weights that the transform was built for."""
    _state: list[tuple[str, keras.Variable, keras.Variable | None]]

    @abstractmethod
    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Return the gradients to use instead.

        Args:
            gradients: A dense tensor for each of `variables`.
            variables: The weights, in the model's order: all that the rule selects, but for those
                that have no gradient in this step.

        Returns:
            As many tensors of the same shapes.
        """

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the state for all weights that the rule selects; by default there is none.

        Args:
            variables: Those weights, in the model's order.
        """
        return

    def add_variable(
        self,
        name: str,
        shape: Sequence[int] = (),
        *,
        dtype: str = "float32",
        initializer: Any = "zeros",
        weight: keras.Variable | None = None,
    ) -> keras.Variable:
        """Create a state variable; `build` should call this.

        Args:
            name: Its name, unique within the transform but for the weight.
            shape: Its shape.
            dtype: Its dtype.
            initializer: A Keras initializer or its name.
            weight: The weight that it serves; `None` if it serves them all.
        """
        variable = keras.Variable(
            keras.initializers.get(initializer),
            shape=tuple(shape),
            dtype=dtype,
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )
        self.track(name, variable, weight)
        return variable

    def track(
        self, name: str, variable: keras.Variable, weight: keras.Variable | None = None
    ) -> None:
        """Add a variable made elsewhere, such as a seed generator's, to the state.

        Args:
            name: What it is saved under.
            variable: The variable.
            weight: The weight that it serves, or `None` if it serves all.
        """
        self.state.append((name, variable, weight))

    @property
    def state(self) -> list[tuple[str, keras.Variable, keras.Variable | None]]:
        """The state variables, each as (name, variable, the weight it serves or `None`)."""
        if not hasattr(self, "_state"):
            self._state = []
        return self._state

    def bound_to(self, variables: Sequence[keras.Variable]) -> Self:
        """Make a copy with state of its own.

        Args:
            variables: The weights that the copy serves.
        """
        bound = copy.copy(self)
        bound._state = []
        bound.weights = tuple(variables)
        bound.build(bound.weights)
        return bound

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal transform."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the transform that `get_config` describes."""
        return cls(**config)

    @property
    def label(self) -> str:
        """The name of the transform in tables, with its arguments."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def __repr__(self) -> str:
        return self.label


def transformed(
    transform: GradientTransform, gradients: Sequence[Any], variables: Sequence[keras.Variable]
) -> list[Any]:
    """Apply `transform`, and check that it returns as many gradients of the same shapes."""
    results = transform(list(gradients), list(variables))
    if not isinstance(results, (list, tuple)) or len(results) != len(gradients):
        received = len(results) if isinstance(results, (list, tuple)) else type(results).__name__
        raise ValueError(
            f"{transform.label} should return a list of {len(gradients)} gradients, one for each "
            f"that it received. Received: {received}"
        )
    checked = []
    for result, gradient, variable in zip(results, gradients, variables, strict=True):
        if result is None:
            raise ValueError(
                f"{transform.label} should return a tensor for {weight_path(variable)!r}; for no "
                "gradient return zeros, and to hold the weight use Rule(..., trainable=False). "
                "Received: None"
            )
        tensor = ops.cast(result, gradient.dtype)
        if tuple(tensor.shape) != tuple(variable.shape):
            raise ValueError(
                f"{transform.label} should return a gradient of shape {tuple(variable.shape)} for "
                f"{weight_path(variable)!r}. Received: shape {tuple(tensor.shape)}"
            )
        checked.append(tensor)
    return checked


def tensors(gradients: Sequence[Any]) -> list[Any]:
    """Convert gradients, whatever arrays they are, to tensors."""
    return [ops.convert_to_tensor(gradient) for gradient in gradients]
