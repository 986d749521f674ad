"""Which weights a rule means: by path, by layer, by variable, or by any function of a weight."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

Selector = Any
"""A regular expression, a layer or model, a variable, or a function of a variable."""


def checked_selectors(weights: Any) -> list[Selector]:
    """`weights` as a list of selectors, or an error that says what selects weights."""
    selectors = list(weights) if isinstance(weights, (list, tuple)) else [weights]
    for selector in selectors:
        known = isinstance(selector, (str, keras.Variable)) or callable(selector)
        if not known or isinstance(selector, type):
            raise TypeError(
                "A Rule selects weights by a regular expression on their paths, a layer or model, "
                "a variable, a function of a variable, or a list of these, as in "
                f"Rule('crf', ...). Received: weights={weights!r}"
            )
    if not selectors or not all(selector for selector in selectors if isinstance(selector, str)):
        raise ValueError(
            "A Rule needs at least one selector, and no regular expression may be empty (use '.' "
            f"for all weights). Received: weights={weights!r}"
        )
    for selector in selectors:
        if isinstance(selector, str):
            try:
                re.compile(selector)
            except re.error as error:
                raise ValueError(
                    f"A Rule's expression should be a valid regular expression, but {error}. "
                    f"Received: weights={selector!r}"
                ) from error
    return selectors


def label(selector: Selector) -> str:
    """What a selector is called in tables."""
    if isinstance(selector, str):
        return selector
    if isinstance(selector, keras.Variable):
        return selector.path
    if isinstance(selector, keras.layers.Layer):
        return selector.name
    return getattr(selector, "__name__", type(selector).__name__)


def select(selector: Selector, variables: Sequence[keras.Variable]) -> list[bool]:
    """Whether `selector` means each of `variables`."""
    if isinstance(selector, str):
        return [re.search(selector, variable.path) is not None for variable in variables]
    if isinstance(selector, keras.Variable):
        return [variable is selector for variable in variables]
    if isinstance(selector, keras.layers.Layer):
        own = {id(variable) for variable in selector.variables}
        return [id(variable) in own for variable in variables]
    answers = [selector(variable) for variable in variables]
    for answer, variable in zip(answers, variables, strict=True):
        if not isinstance(answer, (bool, np.bool_)):
            raise TypeError(
                "A function that selects weights should take a variable and return True or False. "
                f"Received: {answer!r} from {label(selector)} for {variable.path!r}"
            )
    return [bool(answer) for answer in answers]


def portable(selector: Selector) -> Any:
    """The selector as it can stand in a config: layers and variables by their exact paths."""
    if isinstance(selector, str):
        return selector
    if isinstance(selector, keras.Variable):
        return exactly([selector.path])
    if isinstance(selector, keras.layers.Layer):
        paths = [variable.path for variable in selector.variables]
        return exactly(paths) if paths else rf"(^|/){re.escape(selector.name)}(/|$)"
    return keras.saving.serialize_keras_object(selector)


def exactly(paths: Sequence[str]) -> str:
    """The regular expression that selects just these paths."""
    unique = list(dict.fromkeys(paths))
    return f"^({'|'.join(map(re.escape, unique))})$"


def no_weight_selected(selector: Selector, variables: Sequence[keras.Variable]) -> str:
    """Why a selector that means none of `variables` is an error, and the cure."""
    paths = [variable.path for variable in variables]
    if isinstance(selector, keras.layers.Layer):
        if not selector.weights and not selector.built:
            why = "has no weights yet: build it first, for example by calling its model on data"
        elif not selector.weights:
            why = "has no weights"
        elif not selector.trainable_variables:
            why = "has no trainable weight: set `trainable = True` before the optimizer is built"
        else:
            why = "is not part of this model"
        what = f"the layer {selector.name!r} {why}"
    elif isinstance(selector, keras.Variable):
        what = f"the variable {selector.path!r} is not a trainable weight of this model"
    elif isinstance(selector, str):
        what = f"the expression {selector!r} selects no trainable weight"
    else:
        what = f"the function {label(selector)} selects no trainable weight"
    nearest = sorted(paths, key=lambda path: -_similarity(label(selector), path))
    return (
        f"{what}. The nearest of this model's {len(paths)} trainable weights are: "
        f"{nearest[:5]}. Correct the selector, remove it, or make its layer trainable before the "
        "optimizer is built."
    )


def _similarity(name: str, path: str) -> float:
    return difflib.SequenceMatcher(None, name, path).ratio()
