"""Any function as a gradient transform."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras

from finegrain.gradients.transform import GradientTransform


@keras.saving.register_keras_serializable(package="finegrain")
class Function(GradientTransform):
    """Changes gradients by any function of them and of their weights.

    Args:
        fn: Takes `(gradients, variables)`, or `(gradients)` alone, two lists of equal length, and
            returns as many tensors of the same shapes. `variables[i].path` tells which weight it
            is. So that saved models load, register it with
            `keras.saving.register_keras_serializable` (a lambda loads with `safe_mode=False` only).

    Raises:
        TypeError: if `fn` cannot be called with one or two arguments.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> def halve_biases(gradients, variables):
    ...     return [g / 2 if "bias" in v.path else g for g, v in zip(gradients, variables)]
    >>> weights = [keras.Variable([0.0], name=name) for name in ("kernel", "bias")]
    >>> optimizer = fg.PerWeight(
    ...     keras.optimizers.SGD(1.0), [fg.Rule(".", gradient=fg.gradients.Function(halve_biases))])
    >>> optimizer.apply([keras.ops.ones(1), keras.ops.ones(1)], weights)
    >>> print([keras.ops.convert_to_numpy(weight).tolist() for weight in weights])
    [[-1.0], [-0.5]]
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        if not callable(fn):
            raise TypeError(
                "`fn` should be a function of `(gradients, variables)` or `(gradients)`. "
                f"Received: fn={fn!r}"
            )
        self.fn = fn
        self._takes_variables = _takes_variables(fn)
        if not _accepts(fn, 2 if self._takes_variables else 1):
            raise TypeError(
                "`fn` should take `(gradients, variables)` or `(gradients)`. "
                f"Received: fn={fn!r} with the signature {inspect.signature(fn)}"
            )

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Call the function on the gradients, and on the variables if it takes them."""
        return self.fn(gradients, variables) if self._takes_variables else self.fn(gradients)

    def get_config(self) -> dict[str, Any]:
        """Return the function, serialized by Keras."""
        return {"fn": keras.saving.serialize_keras_object(self.fn)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Function:
        """Make the transform that `get_config` describes."""
        fn = config["fn"]
        return cls(keras.saving.deserialize_keras_object(fn) if isinstance(fn, dict) else fn)

    @property
    def label(self) -> str:
        """The name of the transform in tables, with that of the function."""
        return f"Function({getattr(self.fn, '__name__', type(self.fn).__name__)})"


def _takes_variables(fn: Callable[..., Any]) -> bool:
    """Return whether `fn` takes variables: a second argument without a default or of that name."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except ValueError:  # a builtin that does not tell its signature
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and len(positional) < 2:
        return True
    second = positional[1] if len(positional) > 1 else None
    return second is not None and (second.default is second.empty or second.name == "variables")


def _accepts(fn: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(fn).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell its signature
        return count == 2
    return True


def as_transforms(gradient: Any) -> list[GradientTransform]:
    """Make a list of transforms from the `gradient` argument of a rule."""
    if gradient is None:
        return []
    given: list[Any] = list(gradient) if isinstance(gradient, (list, tuple)) else [gradient]
    transforms: list[GradientTransform] = []
    for item in given:
        if isinstance(item, type) or not (isinstance(item, GradientTransform) or callable(item)):
            raise TypeError(
                "`gradient` should be a transform of finegrain.gradients, such as ClipNorm(1.0), "
                "a function of `(gradients, variables)`, or a list of these. "
                f"Received: gradient={gradient!r}"
            )
        transforms.append(Function(item) if not isinstance(item, GradientTransform) else item)
    return transforms
