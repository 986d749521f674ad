"""SetLearningRate: a learning rate for one layer under any optimizer, by reparametrization."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain._checks import finite
from finegrain.routing.overlay import Overlay, create_weights, is_built

Tensor = Any
Function = Callable[[Any], Any]


@keras.saving.register_keras_serializable(package="finegrain")
class SetLearningRate(keras.layers.Wrapper):
    r"""Makes a layer learn at a multiple of the base rate, without touching the optimizer.

    The layer computes with weights $\theta$, of which the optimizer sees and moves only

    $$\phi = \theta / \lambda, \qquad \frac{\partial L}{\partial \phi}
      = \lambda \frac{\partial L}{\partial \theta}.$$

    A gradient step $-\eta\, \partial L / \partial \phi$ of $\phi$ moves $\theta$ by
    $-\lambda^2 \eta\, \partial L / \partial \theta$, and a step $-\eta$ in a direction that does
    not depend on the gradient's size moves it $\lambda$ times as far. So $\lambda$ is the
    multiplier itself for adaptive optimizers and its square root for the others.

    This is for training loops whose optimizer is out of reach. Wherever the optimizer is yours,
    `finegrain.PerWeight` is the main road: it is exact for every optimizer, leaves the model and
    its weight files as they are, and its multipliers can change during training.

    Args:
        layer: The layer or model to wrap, of any kind. If it is built already, as with pretrained
            weights, its outputs stay the same. From here on it is to be called through the
            wrapper only, and through no other wrapper beside it. The same wrapper may be called
            many times, and be wrapped again: multipliers then multiply.
        multiplier: By how much the layer learns faster, a finite number above 0.
        adaptive: Whether the optimizer divides out the size of the gradient, as Adam, RMSprop and
            Lion do and SGD, with momentum or without, does not.
        **kwargs: Keras's own `name` and `trainable`. All else is the wrapped layer's.

    Input and output: those of the wrapped layer, with its masks.

    Raises:
        TypeError: if `layer` is not a layer, `multiplier` not a number or `adaptive` not a bool.
        ValueError: if `multiplier` is not finite or not above 0, or, in a call, if the wrapped
            layer has lost weights since, as quantization makes it.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> layer = fg.layers.SetLearningRate(
    ...     keras.layers.Dense(1, kernel_initializer="ones"), multiplier=4.0, adaptive=False)
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> print(layer.get_weights()[0].ravel(), layer.effective_weights()[0].ravel())
    [0.5 0.5] [1. 1.]
    >>> model.compile(keras.optimizers.SGD(0.125), loss="mse")
    >>> history = model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    >>> print(layer.effective_weights()[0].ravel())  # 1 - 4 * 0.125 * 2
    [0. 0.]

    References:
        Su Jianlin, Make Keras cooler still: layer-wise learning rates and free gradients, 2019,
        https://kexue.fm/archives/6418

    Notes:
        - The weights of the layer, and so `get_weights()` and files, hold $\phi$. $\theta$ is
          `effective_weights()`, $\lambda$ is `scale`. Regularizers and constraints see $\theta$.
        - Exact, with `adaptive=False`: SGD, also with momentum (Nesterov's too). With
          `adaptive=True`: Lion; Adam, Adamax, Nadam and RMSprop up to their epsilon, which is in
          effect divided by $\lambda$. Approximate: Adadelta, Muon.
        - Not exact: Adagrad, whose initial accumulator does not scale along. The decay of AdamW
          and of `weight_decay` keeps its pace, learning rate × decay. Clipping, by value or by
          norm, and the global norm above all, sees gradients that are $\lambda$ times as large.
          Adafactor and Lamb step in proportion to the weight, so $\lambda$ does nothing there.
        - Where $\lambda$ is a power of two (a multiplier of 4 with `adaptive=False`), dividing by
          it rounds nothing. Each forward pass costs one multiplication per weight, and the
          gradient of an embedding becomes dense.
        - The source divides fresh initial values only. Here built layers are divided too.
    """

    def __init__(
        self, layer: keras.layers.Layer, multiplier: float, adaptive: bool, **kwargs: Any
    ) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                "`layer` should be a Keras layer or model, such as keras.layers.Dense(8). "
                f"Received: layer={layer!r} of type {type(layer).__name__}"
            )
        if not isinstance(adaptive, bool | np.bool_):
            raise TypeError(
                "`adaptive` should be True for optimizers such as Adam, which divide out the size "
                f"of the gradient, and False for SGD. Received: adaptive={adaptive!r}"
            )
        if unknown := sorted(set(kwargs) - {"name", "trainable"}):
            raise TypeError(
                "Beside its own arguments SetLearningRate takes `name` and `trainable`; give all "
                f"others to the layer that it wraps. Received: {', '.join(unknown)}"
            )
        multiplier = _checked_multiplier(multiplier)
        # Without a policy and casts of its own: the wrapped layer casts as it would alone, and
        # θ is computed in the full precision of the weights.
        super().__init__(layer, dtype=layer.variable_dtype, autocast=False, **kwargs)
        self.multiplier = multiplier
        self.adaptive = bool(adaptive)
        self.scale = multiplier if adaptive else math.sqrt(multiplier)
        # Keras reads arguments (training, masks, several inputs) by the signature of `call`.
        self._call_signature = inspect.signature(layer.call)
        self._weights_divided = _DividedWeights(self.scale)
        self._weights_divided.add(layer)
        self._all_weights_there = False
        if is_built(layer):
            self.build()

    def build(self, *input_shapes: Any, **named_shapes: Any) -> None:
        """Build the wrapped layer for these shapes, if it is not yet built."""
        if not self.layer.built:
            self.layer.build(*input_shapes, **named_shapes)
        self._weights_divided.add(self.layer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped layer with the arguments that it takes."""
        if not self._all_weights_there:
            if not is_built(self.layer):
                with backend.outside_of_graphs():
                    create_weights(self.layer, args, kwargs)
                    self.build()
            else:
                self._weights_divided.add(self.layer)
            self.built = True
            self._all_weights_there = True
        return super().__call__(*args, **kwargs)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs of the wrapped layer with its effective weights."""
        divided = self._weights_divided
        divided.check(self.layer)
        with divided.effective() as scope:
            outputs = self.layer(*args, **kwargs)
        scope.forward_losses(self)
        for variable, value in scope.updates():
            variable.assign(value / self.scale if variable in divided else value)
        return outputs

    def effective_weights(self) -> list[np.ndarray]:
        r"""Compute the weights $\theta$ that the layer uses, in the order of `get_weights()`.

        `layer.set_weights(wrapper.effective_weights())` makes an equal layer without a wrapper.
        """
        return [
            weight * np.asarray(self.scale, weight.dtype)
            if variable in self._weights_divided
            else weight
            for variable, weight in zip(self.weights, self.get_weights(), strict=True)
        ]

    @property
    def input_spec(self) -> Any:
        """The wrapped layer's input specification."""
        return self.layer.input_spec

    @property
    def input_dtype(self) -> str:
        """The wrapped layer's input dtype."""
        return self.layer.input_dtype

    @property
    def supports_masking(self) -> bool:
        """Whether the wrapped layer supports masking."""
        return self.layer.supports_masking

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Compute the wrapped layer's mask."""
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the shape of the wrapped layer's output."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the shape and dtype of the wrapped layer's output."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def get_build_config(self) -> None:
        """Return `None`: the wrapped layer's own configuration says how it was built."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        config = super().get_config() | {"multiplier": self.multiplier, "adaptive": self.adaptive}
        del config["dtype"]  # the wrapped layer's
        return config


class _DividedWeights:
    """The variables that hold φ instead of θ.

    In an object of its own: Keras would track variables in a list as weights of the wrapper.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.variables: dict[int, Any] = {}

    def __contains__(self, variable: Any) -> bool:
        return id(variable) in self.variables

    def add(self, layer: keras.layers.Layer) -> None:
        """Divide those weights of the layer that are not yet divided."""
        for variable in _weights_to_train(layer):
            if variable not in self:
                self._divide(variable)
                self.variables[id(variable)] = variable

    def _divide(self, variable: Any) -> None:
        if variable._value is None:
            # Made while Keras traces shapes: the initializer sets the value later.
            variable._initializer = _divided_initializer(variable._initializer, self.scale)
        else:
            variable.assign(variable.value / self.scale)
        if variable.regularizer is not None:
            variable.regularizer = _regularizer_of_effective(variable.regularizer, self.scale)
        if variable.constraint is not None:
            variable.constraint = _constraint_of_effective(variable.constraint, self.scale)

    def effective(self) -> Overlay:
        """Make a scope in which these variables are read as θ."""
        return Overlay(
            self.variables.values(), lambda variable, value: ops.multiply(value, self.scale)
        )

    def check(self, layer: keras.layers.Layer) -> None:
        """Raise a `ValueError` if the layer no longer has all of its divided weights."""
        there = {id(variable) for variable in layer.variables}
        if lost := [v.path for key, v in self.variables.items() if key not in there]:
            raise ValueError(
                "The layer in SetLearningRate should keep its weights: what stands in their "
                "place is not scaled. Quantize, say, a plain layer that was given "
                f"`effective_weights()`. Received: a layer {layer.name!r} without {lost}"
            )


def _weights_to_train(layer: keras.layers.Layer) -> list[Any]:
    """Find the weights that a gradient could move, whether or not they are frozen at present.

    `Variable.trainable` does not tell frozen weights from statistics.
    """
    return [
        variable
        for part in layer._flatten_layers()
        for variable in part._trainable_variables
        if not variable.overwrite_with_gradient
    ]


def _divided_initializer(initializer: Callable[..., Tensor], scale: float) -> Callable[..., Tensor]:
    def initialize(shape: Any, dtype: Any = None) -> Tensor:
        return initializer(shape, dtype=dtype) / scale

    return initialize


def _regularizer_of_effective(regularizer: Function, scale: float) -> Function:
    return lambda weight: regularizer(ops.multiply(weight, scale))


def _constraint_of_effective(constraint: Function, scale: float) -> Function:
    return lambda weight: ops.divide(constraint(ops.multiply(weight, scale)), scale)


def _checked_multiplier(multiplier: Any) -> float:
    if not isinstance(multiplier, Real) or isinstance(multiplier, bool | np.bool_):
        raise TypeError(
            "`multiplier` should be a number above 0, such as 10.0. "
            f"Received: multiplier={multiplier!r}"
        )
    value = finite(multiplier)
    if value is None or value <= 0:
        raise ValueError(
            "`multiplier` should be finite and above 0; to hold a layer where it is, set "
            f"`layer.trainable = False`. Received: multiplier={multiplier!r}"
        )
    return value
