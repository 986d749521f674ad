"""What a model of several networks refuses, or warns of, before it is too late."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import keras


def check_hidden(name: str, network: keras.layers.Layer) -> None:
    """Refuse a network that calls a layer of which Keras does not know.

    Raises:
        ValueError: if a `Lambda` calls a layer that is not a part of the network.
    """
    known = {id(part) for part in network._flatten_layers()}
    for part in network._flatten_layers():
        if not isinstance(part, keras.layers.Lambda):
            continue
        for hidden in _layers_named_in(part.function):
            if hidden.weights and id(hidden) not in known:
                raise ValueError(
                    f"The weights of {hidden.name!r} would never learn: the Lambda {part.name!r} "
                    f"of the network {name!r} calls it, and Keras does not know of that. Make it a "
                    "layer of the network."
                )


def _layers_named_in(function: Any) -> Iterator[keras.layers.Layer]:
    """Find the layers that a function reads from around it."""
    code = getattr(function, "__code__", None)
    if code is None:
        return
    around = getattr(function, "__globals__", {})
    values = [around.get(name) for name in code.co_names]
    for cell in getattr(function, "__closure__", None) or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    yield from (value for value in values if isinstance(value, keras.layers.Layer))


def serialized(part: Any) -> Any:
    """Serialize a part of a config; warn if it is a function that a file cannot bring back."""
    is_function = callable(part) and hasattr(part, "__code__")
    if is_function and ">" not in keras.saving.get_registered_name(part):
        warnings.warn(
            f"The function {part.__name__!r} is saved by name only, and a file of this model will "
            "not load without it: register it by @keras.saving.register_keras_serializable(...), "
            f"or give load_model(..., custom_objects={{{part.__name__!r}: ...}}).",
            stacklevel=2,
        )
    return keras.saving.serialize_keras_object(part)
