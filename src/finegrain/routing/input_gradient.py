"""The gradient of a function at its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from finegrain._backend import backend
from finegrain.routing.overlay import Overlay

Tensor = Any


def gradient(function: Callable[[Any], Any], x: Any, *, return_value: bool = False) -> Any:
    r"""Compute the gradient of a function at its input; it can be differentiated again.

    $$\nabla_x \sum_i f(x)_i$$

    Where `function` treats each sample of a batch by itself, as most models do, this is the
    gradient of each sample's own output. A loss that contains it moves the weights of
    `function`, as penalties on a slope do, and whatever `x` was computed from.

    Args:
        function: From `x` to a tensor of floats, of any shape. It may be a layer or model, and
            call some: what these update, such as the statistics of BatchNormalization and seeds, is
            updated once. Losses that they add are left out.
        x: A tensor or array of floats, or a list, tuple or dict of these.
        return_value: Whether to return what `function` gave, too.

    Returns:
        The like of `x`, in the same dtypes: zeros where `function` does not depend on it. With
        `return_value`, the pair of `function(x)` and that.

    Raises:
        TypeError: if `function` cannot be called, if `x` or the output are no floats, or if `x` is
            symbolic: call this in the `call` of a layer or in a loss.
        NotImplementedError: on a backend without gradients.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> slope = fg.routing.gradient(lambda x: x**3, np.array([1.0, 2.0], "float32"))
    >>> print(keras.ops.convert_to_numpy(slope))
    [ 3. 12.]
    >>> def twice(x):  # the derivative of the derivative
    ...     return fg.routing.gradient(lambda x: x**3, x)
    >>> curvature = fg.routing.gradient(twice, np.array([1.0, 2.0], "float32"))
    >>> print(keras.ops.convert_to_numpy(curvature))
    [ 6. 12.]

    Notes:
        On PyTorch, where gradients are switched off, as in `predict`, the result is a constant
        and keeps no graph in memory.
    """
    if not callable(function):
        raise TypeError(f"`function` should be a function of `x`. Received: function={function!r}")
    x = keras.tree.map_structure(_checked, x)
    updated: list[Any] = []

    def total(x: Any) -> tuple[Tensor, tuple[Any, list[Tensor]]]:
        with Overlay() as scope:
            value = function(x)
        # On JAX a value leaves a traced function only as its output.
        updates = scope.statistics()
        updated.extend(variable for variable, _ in updates)
        return _sum(value), (value, [new for _, new in updates])

    slopes, (value, values) = backend.gradient(total, x)
    for variable, new in zip(updated, values, strict=True):
        variable.assign(new)
    return (value, slopes) if return_value else slopes


def _checked(x: Any) -> Tensor:
    if keras.backend.is_keras_tensor(x):
        raise TypeError(
            "`gradient` takes tensors that have values: call it in the `call` of a layer or in a "
            f"loss, not on keras.Input. Received: x={x!r}"
        )
    try:
        x = ops.convert_to_tensor(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`x` should be a tensor or array of floats. Received: x={x!r}") from error
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
        raise TypeError(
            "Only floats have gradients. "
            f"Received: x of dtype {keras.backend.standardize_dtype(x.dtype)}"
        )
    return x


def _sum(value: Any) -> Tensor:
    """Add up all outputs, in float32 unless they are float64."""
    total: Any = 0.0
    for part in keras.tree.flatten(value):
        dtype = keras.backend.standardize_dtype(getattr(part, "dtype", "bool"))
        if not keras.backend.is_float_dtype(dtype):
            raise TypeError(f"`function` should return tensors of floats. Received: {part!r}")
        total = total + ops.sum(part if dtype == "float64" else ops.cast(part, "float32"))
    return total
