"""What schedules are made of: a schedule or a number in a schedule, steps and shares."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._checks import checked_number, finite

LearningRateSchedule = keras.optimizers.schedules.LearningRateSchedule
Part = float | LearningRateSchedule


def checked_steps(argument: str, value: Any, least: int = 1) -> int:
    """Return a number of steps, or raise an error that says what it may be."""
    expected = f"`{argument}` should be an integer >= {least}. Received: {argument}={value!r}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(expected)
    if not least <= value <= np.iinfo("int32").max:
        raise ValueError(expected)
    return int(value)


def checked_share(argument: str, value: Any) -> float:
    """Return a number between 0 and 1, or raise an error."""
    number = finite(value)
    if number is None or not 0 <= number <= 1:
        kind = TypeError if number is None and not isinstance(value, (float, int)) else ValueError
        raise kind(
            f"`{argument}` should be a number between 0 and 1. Received: {argument}={value!r}"
        )
    return number


def checked_part(argument: str, value: Any) -> Part:
    """Return a schedule, or a number ≥ 0 for one that does not change, or raise an error."""
    if isinstance(value, LearningRateSchedule):
        return value
    if callable(value):
        raise TypeError(
            f"`{argument}` should be a number or a LearningRateSchedule, of Keras's or your own: "
            f"a function cannot be saved with the model. Received: {argument}={value!r}"
        )
    return checked_number(argument, value)


def value_of(part: Part, step: Any) -> Any:
    """Return what a part comes to at a step: a float32 scalar."""
    value = part(step) if callable(part) else part
    return ops.cast(value, "float32")


def serialized(part: Part) -> Any:
    """Return a part as it stands in a config."""
    return part if isinstance(part, float) else keras.saving.serialize_keras_object(part)


def restored(part: Any, custom_objects: dict[str, Any] | None = None) -> Any:
    """Return the part that stands in a config."""
    if isinstance(part, dict):
        return keras.saving.deserialize_keras_object(part, custom_objects)
    return part
