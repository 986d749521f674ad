"""Tensors whose gradient is stopped, scaled, reversed or replaced; their value stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain._checks import finite

Tensor = Any


def stop_gradient(x: Any) -> Any:
    r"""Return the same value as a constant: $y = x$, $\partial y / \partial x = 0$.

    Args:
        x: A tensor, or a list, tuple or dict of tensors, symbolic ones included.

    Returns:
        The like of `x`.

    Example:
    >>> import keras, finegrain as fg
    >>> print(keras.ops.convert_to_numpy(fg.routing.stop_gradient(keras.ops.ones(2))))
    [1. 1.]
    """
    return keras.tree.map_structure(ops.stop_gradient, x)


def scale_gradient(x: Any, factor: Any) -> Any:
    r"""Return the same value, with a gradient that is scaled on its way back.

    $$y = x, \qquad \frac{\partial L}{\partial x} = c \, \frac{\partial L}{\partial y}$$

    The value is `x` to the last bit, infinities and NaN included. Second derivatives are those of
    $c\,x$ as well. Under an adaptive optimizer a factor that reaches all of a weight's gradient
    does next to nothing: to change how fast weights learn, use a `finegrain.Rule`.

    Args:
        x: A tensor of floats, or a list, tuple or dict of these, symbolic ones included.
        factor: $c$, a finite number of either sign, or a variable or tensor that broadcasts
            against `x` without widening it. No gradient reaches it. Where `x` is symbolic, no
            variable: a layer that holds it can read it in its `call`, as
            `finegrain.layers.ReverseGradient` does. On JAX what is assigned to a variable in the
            middle of an epoch is lost, unless the callback has asked for its `model` before.

    Returns:
        The like of `x`.

    Raises:
        TypeError: if `x` holds integers, which have no gradient, if `factor` is no number, or if
            it is a variable and `x` symbolic.
        ValueError: if `factor` is not finite.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    >>> class Halved(keras.Model):
    ...     def call(self, x):
    ...         return fg.routing.scale_gradient(layer(x), 0.5)
    >>> model = Halved()
    >>> model.layer = layer
    >>> model.compile(keras.optimizers.SGD(1.0), loss=lambda y, prediction: prediction)
    >>> model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))  # the value is 1, the gradient 0.5
    1.0
    >>> print(layer.get_weights()[0].item())
    0.5
    """
    return _scaled(x, factor, 1.0)


def reverse_gradient(x: Any, factor: Any = 1.0) -> Any:
    r"""Return the same value, with a gradient of the other sign.

    $$y = x, \qquad \frac{\partial L}{\partial x} = -c \, \frac{\partial L}{\partial y}$$

    The layers before it learn to do badly what the layers after it learn to do well. Use it for
    features that do not tell domains apart, or to set a generator against a discriminator (a
    minimax game).

    Args:
        x: A tensor of floats, or a list, tuple or dict of these, symbolic ones included.
        factor: $c$, a finite number, or a variable or tensor, as in `scale_gradient`. To raise
            it during training, use the layer `finegrain.layers.ReverseGradient`, which takes a
            schedule or a number that you set.

    Returns:
        The like of `x`.

    Raises:
        TypeError: as in `scale_gradient`.
        ValueError: as in `scale_gradient`.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> inputs = keras.Input((2,))
    >>> features = keras.layers.Dense(4, activation="relu", name="features")(inputs)
    >>> digit = keras.layers.Dense(10, name="digit")(features)
    >>> domain = keras.layers.Dense(1, name="domain")(fg.routing.reverse_gradient(features))
    >>> model = keras.Model(inputs, [digit, domain])
    >>> [tuple(output.shape) for output in model(np.ones((3, 2), "float32"))]
    [(3, 10), (3, 1)]

    References:
        Yaroslav Ganin, Victor Lempitsky, Unsupervised domain adaptation by backpropagation, 2015,
        https://arxiv.org/abs/1409.7495
    """
    return _scaled(x, factor, -1.0)


def straight_through(value: Any, surrogate: Any) -> Any:
    r"""Return the value of one tensor with the gradient of another.

    $$y = \text{value}, \qquad \frac{\partial L}{\partial\, \text{surrogate}} = \frac{\partial
      L}{\partial y}, \qquad \frac{\partial L}{\partial\, \text{value}} = 0$$

    Use it for operations that have no useful derivative (rounding, a choice of the largest), with
    something smooth that has one. Unlike `surrogate + stop_gradient(value - surrogate)` it rounds
    nothing, and infinities stay what they are.

    Args:
        value: A tensor, or a list, tuple or dict of tensors, symbolic ones included.
        surrogate: As many tensors of floats of the same shapes.

    Returns:
        The like of `value`, in the dtype of `surrogate`.

    Raises:
        TypeError: if `surrogate` holds integers.
        ValueError: if the shapes differ.

    Example:
    >>> import keras, finegrain as fg
    >>> x = keras.ops.convert_to_tensor([0.2, 1.7])
    >>> print(keras.ops.convert_to_numpy(fg.routing.straight_through(keras.ops.round(x), x)))
    [0. 2.]

    References:
        Yoshua Bengio, Nicholas Léonard, Aaron Courville, Estimating or propagating gradients
        through stochastic neurons for conditional computation, 2013,
        https://arxiv.org/abs/1308.3432
    """

    def replaced(value: Tensor, surrogate: Tensor) -> Tensor:
        surrogate = _checked_floats("surrogate", surrogate)
        value = value if keras.backend.is_keras_tensor(value) else ops.convert_to_tensor(value)
        if not _same_shape(value.shape, surrogate.shape):
            raise ValueError(
                "`value` and `surrogate` should have the same shape. Received: "
                f"value.shape={tuple(value.shape)}, surrogate.shape={tuple(surrogate.shape)}"
            )
        return _straight_through(ops.cast(value, surrogate.dtype), surrogate)

    return keras.tree.map_structure(replaced, value, surrogate)


def inner_gradient_only(f: Callable[[Any], Any], x: Any) -> Any:
    r"""Return zeros whose gradient reaches the origin of `x` and not the weights of `f`.

    $$y = f(x) - f(\text{stop\_gradient}(x)) = 0$$

    The gradient of the first term reaches the weights of $f$ and the origin of $x$, that of the
    second the weights alone, so the gradient of the difference reaches the origin alone. Use it
    for functions whose weights are out of reach. Where `f` is a Keras layer,
    `constant_weights(f)(x)` does the same with less work, and its value is $f(x)$ rather than 0.

    Args:
        f: A function from `x` to a tensor, or to a list, tuple or dict of tensors. It should do
            the same at each call: with a new dropout mask in each, gradients would not cancel.
            It is called twice, and with it whatever it updates.
        x: A tensor, or a list, tuple or dict of tensors.

    Returns:
        The like of `f(x)`, zeros where that is finite.

    Raises:
        TypeError: if `f` cannot be called.

    Example:
    >>> import keras, finegrain as fg
    >>> zero = fg.routing.inner_gradient_only(keras.ops.square, keras.ops.ones(3))
    >>> print(keras.ops.convert_to_numpy(zero))
    [0. 0. 0.]

    References:
        Su Jianlin, Cutting gradients skilfully: a GAN from a single loss, 2019,
        https://kexue.fm/archives/6387
    """
    if not callable(f):
        raise TypeError(f"`f` should be a function of a tensor. Received: f={f!r}")
    return keras.tree.map_structure(ops.subtract, f(x), f(stop_gradient(x)))


@keras.saving.register_keras_serializable(package="finegrain")
class StraightThrough(keras.Operation):
    """`straight_through` as a node of a functional model, saved and loaded with the model."""

    def call(self, value: Tensor, surrogate: Tensor) -> Tensor:
        """Return `value` with the derivatives of `surrogate`."""
        return backend.straight_through(value, surrogate)

    def compute_output_spec(self, value: Any, surrogate: Any) -> keras.KerasTensor:
        """Return a symbolic tensor with the shape of `value` and the dtype of `surrogate`."""
        return keras.KerasTensor(value.shape, surrogate.dtype)


def _scaled(x: Any, factor: Any, sign: float) -> Any:
    number = _checked_factor(factor)

    def scaled(leaf: Tensor) -> Tensor:
        leaf = _checked_floats("x", leaf)
        if keras.backend.is_keras_tensor(leaf) and isinstance(factor, keras.Variable):
            raise TypeError(
                "A functional model would read the variable once, when it is made. Use "
                "`finegrain.layers.ReverseGradient`, whose factor can be set, or scale the "
                "gradient in the `call` of a layer that holds the variable. "
                f"Received: factor={factor!r} for a symbolic tensor"
            )
        if number is not None:
            weight = sign * number
        else:
            weight = sign * ops.cast(ops.stop_gradient(factor), leaf.dtype)
        return _straight_through(leaf, leaf * weight)

    return keras.tree.map_structure(scaled, x)


def _straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    if keras.backend.is_keras_tensor(surrogate):
        return StraightThrough()(value, surrogate)
    return backend.straight_through(ops.stop_gradient(value), surrogate)


def _checked_floats(argument: str, x: Any) -> Tensor:
    tensor = x if keras.backend.is_keras_tensor(x) else ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise TypeError(
            f"`{argument}` should hold floats: others have no gradient. Received a tensor of "
            f"dtype {dtype}; cast it with `keras.ops.cast`"
        )
    return tensor


def _checked_factor(factor: Any) -> float | None:
    """Return a plain number as a float, or `None` for a variable or tensor."""
    if hasattr(factor, "dtype") and not isinstance(factor, np.generic):
        return None
    number = finite(factor)
    if number is None:
        kind = ValueError if isinstance(factor, float | np.floating) else TypeError
        raise kind(
            "`factor` should be a finite number, or a variable or tensor. "
            f"Received: factor={factor!r}"
        )
    return number


def _same_shape(one: Any, other: Any) -> bool:
    """Return whether two static shapes may be the same; an unknown size fits any other."""
    if len(one) != len(other):
        return False
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))
