"""Which weights a rule selects: by path, by layer, by variable, or by any function of a weight."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from finegrain._backend import backend

Selector = Any
"""A regular expression, a layer or model, a variable, or a function of a variable."""


class Weights:
    """Selects certain weights, which have one name in tables.

    Args:
        variables: The weights.
        name: What they are called.
    """

    def __init__(self, variables: Sequence[keras.Variable], name: str) -> None:
        self.variables = list(variables)
        self.__name__ = name
        self._ids = {id(variable) for variable in variables}

    def __call__(self, variable: Any) -> bool:
        """Return whether `variable` is one of them."""
        return id(variable) in self._ids


def checked_selectors(weights: Any) -> list[Selector]:
    """Return `weights` as a list of selectors, or raise an error that says what they may be."""
    selectors = list(weights) if isinstance(weights, (list, tuple)) else [weights]
    for selector in selectors:
        known = isinstance(selector, str) or is_variable(selector) or callable(selector)
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
    """Return what a selector is called in tables."""
    if isinstance(selector, str):
        return selector
    if is_variable(selector):
        return weight_path(selector)
    if isinstance(selector, keras.layers.Layer):
        return selector.name
    return getattr(selector, "__name__", type(selector).__name__)


def select(selector: Selector, variables: Sequence[keras.Variable]) -> list[bool]:
    """Return for each of `variables` whether `selector` selects it."""
    if isinstance(selector, str):
        return [re.search(selector, weight_path(variable)) is not None for variable in variables]
    if is_variable(selector):
        return [variable is selector for variable in variables]
    if isinstance(selector, keras.layers.Layer):
        own = {id(variable) for variable in selector.variables}
        return [id(variable) in own for variable in variables]
    answers = [selector(variable) for variable in variables]
    for answer, variable in zip(answers, variables, strict=True):
        if not isinstance(answer, (bool, np.bool_)):
            raise TypeError(
                "A function that selects weights should take a variable and return True or False. "
                f"Received: {answer!r} from {label(selector)} for {weight_path(variable)!r}"
            )
    return [bool(answer) for answer in answers]


def select_moved(
    pattern: str, variables: Sequence[keras.Variable], found: Sequence[bool]
) -> list[bool]:
    """Return for each loaded weight whether `pattern` selects it, now or by its old path.

    Keras builds a Sequential or subclassed model anew when it loads it, and its weights' paths then
    begin without the model's name, or with another: `sequential/head/kernel` becomes
    `head/kernel`. So a pattern of exact paths also selects what each lost path has become. Any
    other pattern is also tried with lost names put back: names that stand in it before a `/`, but
    no longer in any path. They go in front of each path, or in place of its first name if all
    paths share that. Where two weights now have one path, this adds neither to those in `found`.

    Args:
        pattern: A regular expression.
        variables: The weights of the loaded model.
        found: Whether `pattern` finds each of them as it is.
    """
    paths = [weight_path(variable) for variable in variables]
    listed = _listed_paths(pattern)
    if listed is not None:
        meant = {_rest_of(saved, paths) for saved in listed if saved not in paths}
    else:
        names = {name for path in paths for name in path.split("/")}
        lost = [name for name in re.findall(r"([\w.\-]+)/", pattern) if name not in names]
        meant = set()
        for path in paths:
            first, _, rest = path.partition("/")
            renamed = rest if all(other.startswith(f"{first}/") for other in paths) else path
            ends = {path, renamed}
            if any(re.search(pattern, f"{name}/{end}") for name in lost for end in ends):
                meant.add(path)
    return [
        known or (path in meant and paths.count(path) == 1)
        for path, known in zip(paths, found, strict=True)
    ]


def _listed_paths(pattern: str) -> list[str] | None:
    """Return the paths in a pattern that `exactly` made, or `None` for any other pattern."""
    if not (pattern.startswith("^(") and pattern.endswith(")$")):
        return None
    paths = [re.sub(r"\\(.)", r"\1", part) for part in pattern[2:-2].split("|")]
    return paths if exactly(paths) == pattern else None


def _rest_of(saved: str, paths: Sequence[str]) -> str | None:
    """Find which of `paths` the path `saved` has become: its beginning may be lost or changed.

    A changed beginning counts only where all paths begin with one name: the model's. Return the
    longest path that fits, or `None` if none does.
    """
    rests = [path for path in paths if f"/{saved}".endswith(f"/{path}")]
    if not rests and len({path.partition("/")[0] for path in paths}) == 1:
        rest = saved.partition("/")[2]
        rests = [path for path in paths if rest and path.partition("/")[2] == rest]
    return max(rests, key=len, default=None)


def weight_path(variable: Any) -> str:
    """Return the path of a Keras variable, or the name of a plain TensorFlow variable."""
    path = getattr(variable, "path", None)
    return variable.name.partition(":")[0] if path is None else path


def is_variable(value: Any) -> bool:
    """Return whether `value` is a weight that Keras's optimizers take."""
    return isinstance(value, keras.Variable) or backend.is_native_variable(value)


def portable(selector: Selector) -> Any:
    """Make the selector fit for a config: layers and variables become their exact paths."""
    if isinstance(selector, str):
        return selector
    if is_variable(selector):
        return exactly([weight_path(selector)])
    if isinstance(selector, Weights):
        return exactly([weight_path(variable) for variable in selector.variables])
    if isinstance(selector, keras.layers.Layer):
        paths = [variable.path for variable in selector.variables]
        return exactly(paths) if paths else rf"(^|/){re.escape(selector.name)}(/|$)"
    return keras.saving.serialize_keras_object(selector)


def exactly(paths: Sequence[str]) -> str:
    """Make the regular expression that selects just these paths."""
    unique = list(dict.fromkeys(paths))
    return f"^({'|'.join(map(re.escape, unique))})$"


def no_weight_selected(selector: Selector, variables: Sequence[keras.Variable]) -> str:
    """Say why `selector` selects none of `variables`, and what to do about it."""
    paths = [weight_path(variable) for variable in variables]
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
    elif is_variable(selector):
        what = f"the variable {weight_path(selector)!r} is not a trainable weight of this model"
    elif isinstance(selector, Weights):
        what = (
            f"none of {label(selector)} is a trainable weight of this model: make the rule for "
            "this model, as it is now"
        )
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
