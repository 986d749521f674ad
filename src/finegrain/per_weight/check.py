"""Whether weights learn as somebody expects, for tests."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import keras
import numpy as np

from finegrain.gradients.function import as_transforms
from finegrain.per_weight.reports import WeightReport
from finegrain.rules.selection import (
    Selector,
    checked_selectors,
    label,
    no_weight_selected,
    select,
    weight_path,
)

Expected = Mapping[Selector, Mapping[str, Any]] | Sequence[tuple[Selector, Mapping[str, Any]]]
"""{selector: {property: value}}, or pairs of these: a variable is no key of a dict."""

# How much of a long list of differences is told.
MOST_DIFFERENCES = 20
MOST_PATHS = 4


class LearnsOtherwiseError(AssertionError, ValueError):
    """Weights do not learn as expected."""


def check(
    expected: Expected,
    model: Any,
    weights: Sequence[keras.Variable],
    reports: Sequence[WeightReport],
) -> None:
    """Compare what is expected with what the reports say.

    Args:
        expected: Which weights should have which properties.
        model: The model, or `None`.
        weights: Its trainable weights.
        reports: One for each of them.

    Raises:
        LearnsOtherwiseError: if a weight learns otherwise.
        TypeError: if a value or a selector is of a wrong type.
        ValueError: if a selector selects no weight, or a property is unknown.
    """
    frozen = _frozen(model, weights)
    found: list[tuple[str, list[str]]] = []
    wrong: set[str] = set()
    for selector, properties in _pairs(expected):
        selectors = checked_selectors(selector)
        lines: list[str] = []
        for name, value in _checked(properties).items():
            asked = _selected(selectors, weights, reports, frozen, name)
            other: dict[str, list[str]] = {}
            for path, present in asked:
                if not _equal(present, value):
                    other.setdefault(_shown(present), []).append(path)
                    wrong.add(path)
            if other:
                lines.append(f"  {name}: expected {_shown(value)}")
            lines += [f"    found {what} for {_listed(paths)}" for what, paths in other.items()]
        if lines:
            found.append((repr(", ".join(map(label, selectors))), lines))
    if found:
        flat = [line for name, lines in found for line in (name, *lines)]
        rest = len(flat) - MOST_DIFFERENCES
        shown = flat if rest <= 1 else [*flat[:MOST_DIFFERENCES], f"… and {rest} lines more"]
        who = "1 weight does" if len(wrong) == 1 else f"{len(wrong)} weights do"
        raise LearnsOtherwiseError("\n".join([f"{who} not learn as expected:", *shown]))


def _pairs(expected: Any) -> list[tuple[Selector, Mapping[str, Any]]]:
    pairs = list(expected.items()) if isinstance(expected, Mapping) else expected
    right = isinstance(pairs, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[1], Mapping)
        for pair in pairs
    )
    if not right:
        raise TypeError(
            "`expected` should be {selector: {property: value}}, as in "
            '{"bias$": dict(weight_decay=0.0)}, or a list of such pairs. '
            f"Received: expected={expected!r}"
        )
    if not pairs or not all(properties for _, properties in pairs):
        raise ValueError(
            "`expected` should name a property of some weights, as in "
            f'{{"bias$": dict(weight_decay=0.0)}}. Received: expected={expected!r}'
        )
    return list(pairs)


def _frozen(model: Any, weights: Sequence[keras.Variable]) -> list[keras.Variable]:
    """List the weights that would be trainable, had not they or their layers been frozen."""
    if not isinstance(model, keras.layers.Layer):
        return []
    trainable = {id(weight) for weight in weights}
    made = {id(w): w for layer in model._flatten_layers() for w in layer._trainable_variables}
    return [weight for key, weight in made.items() if key not in trainable]


def _selected(
    selectors: Sequence[Selector],
    weights: Sequence[keras.Variable],
    reports: Sequence[WeightReport],
    frozen: Sequence[keras.Variable],
    name: str,
) -> list[tuple[str, Any]]:
    """List (path, what the property is) of the weights that any of the selectors selects."""
    meant: dict[int, tuple[str, Any]] = {}
    for selector in selectors:
        found = select(selector, weights)
        still = [w for w, means in zip(frozen, select(selector, frozen), strict=True) if means]
        if not any(found) and not still:
            raise ValueError(no_weight_selected(selector, weights))
        if not any(found) and name != "trainable":
            raise ValueError(
                f"{label(selector)!r} selects frozen weights alone, of which only `trainable` can "
                "be expected, which is False. Make their layer trainable, or correct the selector. "
                f"Received: {name} of {_listed([weight_path(weight) for weight in still])}"
            )
        for weight, report, means in zip(weights, reports, found, strict=True):
            if means:
                meant[id(weight)] = (report.path, getattr(report, name))
        if name == "trainable":
            meant |= {id(weight): (weight_path(weight), False) for weight in still}
    return list(meant.values())


# The properties, and what their values may be.


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (Real, np.number)):
        raise _wrong_type(name, "a number", value)
    return float(value)


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _wrong_type(name, "True or False", value)
    return bool(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        what = "the name of a dtype" if name == "dtype" else "the name of an optimizer's class"
        raise _wrong_type(name, what, value)
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(item, str) for item in names):
        raise _wrong_type(name, "the names of all rules, in order", value)
    return tuple(names)


def _labels(name: str, value: Any) -> tuple[str, ...]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    labels: list[str] = []
    for item in items:
        if not isinstance(item, str) and not callable(item):
            raise _wrong_type(name, "gradient transforms, or how the table names them", value)
        own = [item] if isinstance(item, str) else [t.label for t in as_transforms(item)]
        labels += own
    return tuple(labels)


PROPERTIES: dict[str, Callable[[str, Any], Any]] = {
    "learning_rate_multiplier": _number,
    "effective_learning_rate": _number,
    "weight_decay": _number,
    "optimizer": _text,
    "trainable": _truth,
    "gradient": _labels,
    "rules": _names,
    "dtype": _text,
}
"""What can be expected of a weight, and what checks the value."""


def _checked(properties: Mapping[str, Any]) -> dict[str, Any]:
    checked = {}
    for given, value in properties.items():
        name = "effective_learning_rate" if given == "learning_rate" else given
        if name not in PROPERTIES:
            near = difflib.get_close_matches(str(name), PROPERTIES, n=1)
            raise ValueError(
                f"There is no property {given!r} of a weight to expect"
                f"{f'; did you mean {near[0]!r}?' if near else '.'} "
                f"Known are {', '.join(PROPERTIES)}. Received: {dict(properties)!r}"
            )
        checked[name] = PROPERTIES[name](given, value)
    return checked


def _wrong_type(name: str, what: str, value: Any) -> TypeError:
    return TypeError(f"The expected `{name}` should be {what}. Received: {name}={value!r}")


def _equal(present: Any, value: Any) -> bool:
    if isinstance(value, float):
        return math.isclose(present, value, rel_tol=1e-6)
    return present == value


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.7g}"  # as precise as float32
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _listed(paths: Sequence[str]) -> str:
    rest = len(paths) - MOST_PATHS
    return ", ".join(paths[:MOST_PATHS]) + (f" and {rest} more" if rest > 0 else "")
