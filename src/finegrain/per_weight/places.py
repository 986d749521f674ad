"""Where weights stand in their model, so that what was saved of them finds them again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import keras

from finegrain.rules.selection import weight_path

Place = tuple[str, list[int]]
"""(unique path, shape) of a weight."""


def places(variables: Sequence[keras.Variable]) -> list[Place]:
    """Find where each variable stands in its model; repeated paths get `#2`, `#3`, … in order.

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
    """Match saved weights to today's: {index of today's: index of the saved one}.

    Both lists are in the model's order. If both models have the same paths, equal paths match. But
    paths change when a model is built again: Keras numbers the layers that it names throughout the
    process, and `Bidirectional` loses its name from its weights' paths on loading. So models that
    agree in order, but for such numbers, match in order. In other models equal paths match first;
    the remaining weights then match in order if they agree in count, shapes and last names. If they
    do not, since other weights are trained now, those match that are alike but for such numbers,
    where there are as many of them as before.
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
    """Group the indices of places of equal shapes and, but for the layers' numbers, equal paths."""
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


def stored_name(path: str) -> str:
    """Write a path as part of a name in a store; different paths give different names."""
    # A slash opens a group in the file, and a colon parts a path from a slot.
    return path.replace("%", "%25").replace("|", "%7C").replace(":", "%3A").replace("/", "|")


def path_of(name: str) -> str:
    """Return the path of which `name` is the stored name."""
    return name.replace("|", "/").replace("%3A", ":").replace("%7C", "|").replace("%25", "%")
