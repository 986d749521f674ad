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

from finegrain._backend import backend
from finegrain.rules.selection import weight_path

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
        path = weight_path(variable)
        seen[path] += 1
        path = path if seen[path] == 1 else f"{path}#{seen[path]}"
        result.append((path, [int(size) for size in variable.shape]))
    return result


def match_weights(saved: Sequence[Place], weights: Sequence[Place]) -> dict[int, int]:
    """Which saved weight is which of today's: {index of today's: index of the saved one}.

    Both lists are in the model's order. Where both models have the same paths, equal paths
    match. But paths change when a model is built again: Keras counts the layers that it names
    through the process, and `Bidirectional` loses its name from its weights' paths on loading.
    So models that agree in order, but for such counts, match in order; in others, equal paths
    match first, and then in order what agrees in number, shapes and last names. Where other
    weights are trained than were, those match that are alike, but for counts, and as many.
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
        return matches | dict(zip(rest, rest_saved, strict=True))
    alike = _by_kind(rest_saved, saved)
    for kind, members in _by_kind(rest, weights).items():
        if len(members) == len(alike.get(kind, [])):
            matches |= dict(zip(members, alike[kind], strict=True))
    return matches


def _by_kind(indices: Sequence[int], places: Sequence[Place]) -> dict[str, list[int]]:
    """The indices of places of the same path, but for counts, and of the same shape."""
    result: dict[str, list[int]] = {}
    for index in indices:
        result.setdefault(repr(_uncounted(places[index])), []).append(index)
    return result


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
        store[name] = backend.host_array(variable)
    for index, (path, shape) in enumerate(places(weights)):
        store[f"{key(path)}:place"] = np.array([index, *shape], "int64")


class Saved:
    """A store as today's weights see it, under their own paths.

    Args:
        store: What `save` has filled.
        weights: The weights of today's optimizer.
    """

    def __init__(self, store: Any, weights: Sequence[keras.Variable]) -> None:
        self._store = store
        self.names = set(store.keys())
        saved_places = {
            name.removesuffix(":place"): [int(size) for size in np.asarray(store[name])]
            for name in self.names
            if name.endswith(":place")
        }
        saved = sorted(saved_places, key=lambda name: saved_places[name][0])
        today = places(weights)
        matches = match_weights([(path_of(name), saved_places[name][1:]) for name in saved], today)
        self._saved_as = {key(today[i][0]): saved[match] for i, match in matches.items()}
        self._of_weight: dict[str, dict[str, str]] = {}
        for name in self.names:
            weight, colon, slot = name.partition(":")
            if colon:
                self._of_weight.setdefault(weight, {})[slot] = name

    def of_weight(self, weight: str) -> dict[str, Any]:
        """What was saved of a weight, given by its key: {slot: array}."""
        saved = self._of_weight.get(self._saved_as.get(weight, weight), {})
        return {slot: self._store[name] for slot, name in saved.items()}

    def fill(self, state: NamedState) -> dict[str, bool]:
        """Fills variables: {name of each: whether it was there and fitted}.

        Variables that serve several weights stand under each of them; what fits first is taken.
        """
        filled: dict[str, bool] = {}
        label_of: dict[int, str] = {}
        for name, variable in state:
            label = label_of.setdefault(id(variable), path_of(name))
            if filled.setdefault(label, False):
                continue
            weight, colon, slot = name.partition(":")
            source = f"{self._saved_as.get(weight, weight)}:{slot}" if colon else name
            if source in self.names and fits(self._store[source], variable):
                variable.assign(np.asarray(self._store[source]))
                filled[label] = True
        return filled


def fits(array: Any, variable: keras.Variable) -> bool:
    """Whether the variable can hold the array."""
    return tuple(array.shape) == tuple(variable.shape)
