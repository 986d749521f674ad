"""Calling a user's function as if it were a layer's `call`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras


class Inside(keras.layers.Layer):
    """Runs a function inside of a layer, so that all layers in it know whether this is training."""

    def __init__(self) -> None:
        super().__init__(autocast=False, dtype="float32", name="inside")
        self.built = True

    def call(self, function: Callable[[], Any], training: bool | None = None) -> Any:
        """Return what the function returns."""
        return function()


def parameters_of(function: Any) -> list[str] | None:
    """Return the names of what a function takes, or `None` if it takes whatever is given."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return None
    return [one.name for one in parameters]


def chosen(given: Mapping[str, Any], names: list[str] | None) -> dict[str, Any]:
    """Return those of the arguments that a function takes."""
    return {name: value for name, value in given.items() if names is None or name in names}


def check_parameters(function: Any, given: list[str]) -> list[str] | None:
    """Check that a function asks for nothing that it will not be given.

    Raises:
        TypeError: if it cannot be called, or takes what there is not.
    """
    if not callable(function):
        raise TypeError(
            "`losses` should be a function that returns a dict of losses. "
            f"Received: losses={function!r}"
        )
    names = parameters_of(function)
    parameters = inspect.signature(function).parameters
    for name in names or ():
        kind = parameters[name]
        if name not in given and kind.default is inspect.Parameter.empty:
            raise TypeError(
                "`losses` should take networks, by the names that they have in `networks`, and of "
                f"{[one for one in given if one in RESERVED]} what it needs. It asks for "
                f"{name!r}; there are {given}"
            )
    return names


RESERVED = ("x", "y", "sample_weight", "training", "seed", "step")
"""What a function of losses can take besides networks."""
