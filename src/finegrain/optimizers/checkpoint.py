"""State kept under the paths of the weights it serves, so that it finds them again.

A store is what Keras hands to `save_own_variables`: a mapping from names to arrays. A name is
`path:slot` for the state of one weight and a plain word for the state of them all; slashes in
paths become bars, since a slash opens a group in the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

Place = tuple[str, list[int]]
"""(unique path, shape) of a weight."""

NamedState = Iterable[tuple[str, keras.Variable]]
"""(name, state variable); a variable that serves several weights appears under each of them."""


def places(variables: Sequence[keras.Variable]) -> list[Place]:
    """Where each variable stands in its model; repeated paths get `#2`, `#3`, … in order.

    Layers of the same name inside two nested models have equal paths.
    """
    seen: Counter[str] = Counter()
    result: list[Place] = []
    for variable in variables:
        seen[variable.path] += 1
        count = seen[variable.path]
        path = variable.path if count == 1 else f"{variable.path}#{count}"
        result.append((path, [int(size) for size in variable.shape]))
    return result


def match_weights(saved: Sequence[Place], weights: Sequence[Place]) -> dict[int, int]:
    """Which saved weight is which of today's: {index of today's: index of the saved one}.

    Both lists are in the model's order. Where both models have the same paths, equal paths
    match. But paths change when a model is built again: Keras counts the layers that it names
    through the process, and `Bidirectional` loses its name from its weights' paths on loading.
    So models that agree in order, but for such counts, match in order; in others, equal paths
    match first, and then in order what agrees in number, shapes and last names.
    """
    if {path for path, _ in saved} != {path for path, _ in weights} and [
        _uncounted(place) for place in saved
    ] == [_uncounted(place) for place in weights]:
        return {index: index for index in range(len(weights))}
    index_of = {path: index for index, (path, _) in enumerate(saved)}
    matches = {
        index: index_of[path]
        for index, (path, shape) in enumerate(weights)
        if path in index_of and list(saved[index_of[path]][1]) == list(shape)
    }
    taken = set(matches.values())
    rest = [index for index in range(len(weights)) if index not in matches]
    rest_saved = [index for index in range(len(saved)) if index not in taken]
    if [_kind(weights[index]) for index in rest] == [_kind(saved[index]) for index in rest_saved]:
        matches |= dict(zip(rest, rest_saved, strict=True))
    return matches


def _uncounted(place: Place) -> tuple[str, list[int]]:
    path, shape = place
    return re.sub(r"_\d+(?=/|$)|#\d+$", "", path), list(shape)


def _kind(place: Place) -> tuple[str, list[int]]:
    path, shape = place
    return path.rpartition("/")[2].partition("#")[0], list(shape)


def key(path: str) -> str:
    """A path as part of a name in a store; no two paths have the same."""
    # A slash opens a group in the file, and a colon parts a path from a slot.
    return path.replace("%", "%25").replace("|", "%7C").replace(":", "%3A").replace("/", "|")


def path_of(name: str) -> str:
    """The path of which `name` is the key."""
    return name.replace("|", "/").replace("%3A", ":").replace("%7C", "|").replace("%25", "%")


def save(store: Any, state: NamedState, weights: Sequence[keras.Variable]) -> None:
    """Writes `state` and the places of `weights` into `store`."""
    for name, variable in state:
        store[name] = ops.convert_to_numpy(variable.value)
    for index, (path, shape) in enumerate(places(weights)):
        store[f"{key(path)}:place"] = np.array([index, *shape], "int64")


def load(store: Any, state: NamedState, weights: Sequence[keras.Variable]) -> dict[str, bool]:
    """Fills `state` from `store`: {name of each variable: whether it was there and fitted}."""
    names = set(store.keys())
    saved_as = _saved_keys(store, names, weights)
    sources: dict[int, list[str]] = {}
    variables: dict[int, tuple[str, keras.Variable]] = {}
    for name, variable in state:
        weight, colon, slot = name.partition(":")
        source = f"{saved_as.get(weight, weight)}:{slot}" if colon else name
        variables.setdefault(id(variable), (path_of(name), variable))
        sources.setdefault(id(variable), []).append(source)

    def steps(source: str) -> float:
        # What several weights share is taken from the one that has learned longest: a weight
        # that was held has counted fewer steps than the momenta beside it.
        count = f"{source.partition(':')[0]}:step:iterations"
        return float(np.asarray(store[count])) if count in names else -1.0

    filled: dict[str, bool] = {}
    for label, variable in variables.values():
        fitting = [
            source
            for source in sources[id(variable)]
            if source in names and tuple(store[source].shape) == tuple(variable.shape)
        ]
        filled[label] = bool(fitting)
        if fitting:
            source = max(fitting, key=steps) if len(fitting) > 1 else fitting[0]
            variable.assign(np.asarray(store[source]))
    return filled


def _saved_keys(store: Any, names: set[str], weights: Sequence[keras.Variable]) -> dict[str, str]:
    """The keys of today's weights → the keys that they were saved under."""
    saved_places = {
        name.removesuffix(":place"): [int(size) for size in np.asarray(store[name])]
        for name in names
        if name.endswith(":place")
    }
    saved = sorted(saved_places, key=lambda name: saved_places[name][0])
    today = places(weights)
    matches = match_weights([(path_of(name), saved_places[name][1:]) for name in saved], today)
    return {key(today[index][0]): saved[match] for index, match in matches.items()}
