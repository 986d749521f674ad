"""The saved state of a PerWeight, under the paths of the weights that it serves.

A store is what Keras hands to `save_own_variables`: a mapping from names to arrays. A name is
`path:slot` for the state of one weight and a plain word for the state of them all; slashes in
paths become bars, since a slash opens a group in the file. So a file depends on neither the
grouping by rules nor the backend.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from finegrain._backend import backend
from finegrain.per_weight.partition import Group
from finegrain.per_weight.places import match_weights, path_of, places, stored_name
from finegrain.per_weight.rulebook import LiveRule, Number
from finegrain.per_weight.slots import STEP, weight_slots

NamedState = Iterable[tuple[str, keras.Variable]]
"""(name, state variable); a variable that serves several weights appears under each of them."""

# The slots that belong to PerWeight itself, whatever optimizer moves a weight.
SHARED_SLOTS = {"place", "accumulated_gradients", "model_variables_moving_average"}


def names_of(optimizer: Any) -> dict[Any, str]:
    """Return the name that each weight has in a store: {`_var_key` of the weight: name}."""
    weights = optimizer._trainable_variables
    names = [stored_name(path) for path, _ in places(weights)]
    return dict(zip(map(optimizer._var_key, weights), names, strict=True))


def named_state(optimizer: Any) -> Iterator[tuple[str, keras.Variable]]:
    """Yield every state variable under a name that depends on neither grouping nor backend."""
    yield from _shared_state(optimizer)
    name_of = names_of(optimizer)
    for group in optimizer._partition.groups:
        for weight, slots in zip(group.weights, group.states(), strict=True):
            for slot, variable in slots.items():
                yield f"{name_of[optimizer._var_key(weight)]}:{slot}", variable


def _shared_state(optimizer: Any) -> Iterator[tuple[str, keras.Variable]]:
    """Yield the state variables that belong to no group, named as in `named_state`."""
    weights = optimizer._trainable_variables
    name_of = names_of(optimizer)
    for index, slot, variable in weight_slots(optimizer, weights):
        yield f"{name_of[optimizer._var_key(weights[index])]}:{slot}", variable
    yield "iterations", optimizer._iterations
    if isinstance(optimizer._learning_rate, keras.Variable):
        yield "learning_rate", optimizer._learning_rate
    if optimizer._guard is not None:
        yield "skipped_steps", optimizer._guard.skipped
    for rule, place, transform in optimizer._partition.transforms:
        prefix = f"gradient:{stored_name(rule)}:{place}"
        for name, variable, weight in transform.state:
            if weight is None:
                yield f"{prefix}:{name}", variable
            else:
                yield f"{name_of[optimizer._var_key(weight)]}:{prefix}:{name}", variable


def save(optimizer: Any, store: Any) -> None:
    """Write the state, and each number of the rules as it was configured and as it is now."""
    optimizer._partition.hand_out_counts()
    _write(store, named_state(optimizer), optimizer._trainable_variables)
    for live, number in optimizer._book.numbers():
        store[number_name(live, number)] = np.array([number.configured, number.read()], "float32")


def load(optimizer: Any, store: Any) -> None:
    """Read what `save` wrote, and warn of what is missing.

    A weight resumes if the store has all state that its optimizer keeps for it. Otherwise it begins
    as a new one: slots of zero with the step count of old ones would make its steps too large.
    """
    weights = optimizer._trainable_variables
    saved = Saved(store, weights)
    names = saved.names
    name_of = names_of(optimizer)
    of_weight = {key: saved.of_weight(name) for key, name in name_of.items()}
    for group in optimizer._partition.groups:
        _tell_numbers_from_slots(group, [of_weight[optimizer._var_key(w)] for w in group.weights])
    goes_on = {}
    for group in optimizer._partition.groups:
        for weight, slots in zip(group.weights, group.states(), strict=True):
            key = optimizer._var_key(weight)
            goes_on[key] = _goes_on(slots, of_weight[key])
    steps = {key: _steps(of_weight[key]) if on else None for key, on in goes_on.items()}
    _split(optimizer, steps)
    filled = saved.fill(_shared_state(optimizer))
    for group in optimizer._partition.groups:
        for weight, slots in zip(group.weights, group.states(), strict=True):
            key = optimizer._var_key(weight)
            for slot, variable in slots.items():
                filled[path_of(f"{name_of[key]}:{slot}")] = goes_on[key]
                if goes_on[key]:
                    variable.assign(np.asarray(of_weight[key][slot]))
    optimizer._partition.collect_counts()
    if optimizer.use_ema:
        for weight, average in zip(weights, optimizer._model_variables_moving_average, strict=True):
            there = "model_variables_moving_average" in of_weight[optimizer._var_key(weight)]
            if average is not None and not there:
                average.assign(weight)
    claimed = {number_name(live, number) for live, number in optimizer._book.numbers()}
    optimizer._unclaimed = {
        name: np.asarray(store[name])
        for name in names
        if name.startswith("rule:") and name not in claimed
    }
    for live, number in optimizer._book.numbers():
        if number_name(live, number) in names:
            configured, current = np.asarray(store[number_name(live, number)])
            # A loaded model's config has the current number; that of the first release, of a rule
            # that says `trainable`, its sign alone.
            told = [configured, current]
            if number.property_name == "trainable":
                told.append(np.sign(current))
            if np.float32(number.configured) in told:
                number.assign(float(current))
    if optimizer._guard is not None:
        optimizer._guard.forget()
    if "iterations" in names and not any(name.endswith(":place") for name in names):
        return  # saved before the optimizer was built
    optional = {"skipped_steps"}
    missing = [name for name, found in filled.items() if not found and name not in optional]
    if missing:
        warnings.warn(
            f"The saved state lacks {len(missing)} of {len(filled)} variables of optimizer "
            f"{optimizer.name!r}; they keep their values, and the weights that they serve begin "
            f"as new ones: {missing[:5]}{' and more' if len(missing) > 5 else ''}. The file may "
            "come from another model, another optimizer, or a training of fewer weights.",
            stacklevel=3,
        )


def _tell_numbers_from_slots(group: Group, saved: Sequence[dict[str, Any]]) -> None:
    """Give each weight of a group all numbers of the scale that was learned for the whole group.

    Where there were as many numbers as weights, the first release saved one under each weight.
    """
    numbers = getattr(group.optimizer, "_numbers", [])
    if len(numbers) == len(saved) and all("numbers" in of_weight for of_weight in saved):
        arrays = [of_weight.pop("numbers") for of_weight in saved]
        for of_weight in saved:
            of_weight |= {
                f"{STEP}{number.name}": array for number, array in zip(numbers, arrays, strict=True)
            }


def _split(optimizer: Any, steps: dict[Any, Hashable]) -> None:
    """Split the groups whose weights have taken different steps."""
    parted = optimizer._partition.split(steps)
    if parted is optimizer._partition:
        return
    optimizer._partition = parted
    if optimizer._is_traced:
        warnings.warn(
            "The state that is loaded parts the weights into other groups than the training "
            "step was traced with. Compile the model again, with this optimizer, before it "
            "trains on: model.compile(model.optimizer, ...).",
            stacklevel=4,
        )


def load_in_order(optimizer: Any, arrays: Sequence[Any]) -> None:
    """Read the state of a built `PerWeight` from arrays in the order of its variables.

    This is how the first release saved a `PerWeight` inside `AdaptiveStepSize`. On JAX the step
    counts of all groups are one variable; on other backends each group has its own, in its place.

    Raises:
        ValueError: if the arrays fit in neither form.
    """
    partition, own = optimizer._partition, list(optimizer._variables)
    of_groups = [v for group in partition.groups for v in group.optimizer.variables]
    rest = partition.transform_variables
    counts = [group.optimizer._iterations for group in partition.groups]
    partition.hand_out_counts()
    apart = [*own, *of_groups, *rest]
    if not _fit(arrays, apart):
        known = set(map(id, counts))
        apart = [*own, *counts, *(v for v in of_groups if id(v) not in known), *rest]
        start = len(own)
        together = [count for array in arrays[start : start + 1] for count in np.ravel(array)]
        arrays = [*arrays[:start], *together, *arrays[start + 1 :]]
        if not _fit(arrays, apart):
            raise ValueError(
                f"The saved state of optimizer {optimizer.name!r} is that of other weights or "
                f"rules: its arrays do not fit. Received: {len(arrays)} for {len(apart)} variables"
            )
    for variable, array in zip(apart, arrays, strict=True):
        variable.assign(array)
    partition.collect_counts()


def _fit(arrays: Sequence[Any], variables: Sequence[keras.Variable]) -> bool:
    """Return whether each variable can take the array in its place."""
    return len(arrays) == len(variables) and all(
        fits(np.asarray(array), variable) for array, variable in zip(arrays, variables, strict=True)
    )


def _goes_on(state: dict[str, keras.Variable], saved: dict[str, Any]) -> bool:
    """Return whether `saved`, of one weight, is exactly what a group's optimizer keeps for it."""
    own = {s for s in saved if s not in SHARED_SLOTS and not s.startswith("gradient:")}
    return own == set(state) and all(fits(saved[s], v) for s, v in state.items())


def _steps(saved: dict[str, Any]) -> Hashable:
    """Make a key of what was saved of a weight's steps; equal keys can share an optimizer."""
    return tuple(
        (slot, np.asarray(saved[slot]).tobytes()) for slot in sorted(saved) if slot.startswith(STEP)
    )


def selection(optimizer: Any) -> list[tuple[str, list[int], list[int], bool]]:
    """List (path, shape, indices of its rules, whether it decays) of each weight for the config."""
    if optimizer._from_file is not None:
        return optimizer._from_file.selection
    if not optimizer.built:
        return []
    where = places(optimizer._trainable_variables)
    return [
        (path, shape, list(selected.rules), selected.decays)
        for (path, shape), selected in zip(where, optimizer._partition.selection, strict=True)
    ]


def rule_configs(optimizer: Any) -> list[dict[str, Any]]:
    """Return the configs of the rules, with their numbers as they are now."""
    return [_rule_config(optimizer, index) for index in range(len(optimizer._book.rules))]


def _rule_config(optimizer: Any, index: int) -> dict[str, Any]:
    live = optimizer._book.rules[index]
    rule = live.rule
    if optimizer.built and optimizer._from_file is None:
        # By now the weights that a function selects are known.
        rule = rule.selecting(
            [
                weight
                for weight, selected in zip(
                    optimizer._trainable_variables, optimizer._partition.selection, strict=True
                )
                if index in selected.rules
            ]
        )
    config = rule.get_config()
    for name, number in live.numbers.items():
        current = number.current()
        if name == "trainable":
            config |= {name: current > 0, "scale": current or 1.0}
        elif rule.template is not None and name == live.own_rate_name:
            config["optimizer"] = rule.template.serialize(learning_rate=current)
        else:
            config[name] = current
    return config


def number_name(live: LiveRule, number: Number) -> str:
    """Return the name that a rule's number has in a store."""
    return f"rule:{stored_name(live.key)}:{number.property_name}"


def _write(store: Any, state: NamedState, weights: Sequence[keras.Variable]) -> None:
    """Write `state` and the places of `weights` into `store`."""
    for name, variable in state:
        store[name] = backend.host_array(variable)
    for index, (path, shape) in enumerate(places(weights)):
        store[f"{stored_name(path)}:place"] = np.array([index, *shape], "int64")


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
        self._saved_as = {stored_name(today[i][0]): saved[match] for i, match in matches.items()}
        self._of_weight: dict[str, dict[str, str]] = {}
        for name in self.names:
            weight, colon, slot = name.partition(":")
            if colon:
                self._of_weight.setdefault(weight, {})[slot] = name

    def of_weight(self, weight: str) -> dict[str, Any]:
        """Return what was saved of a weight, given by its name in a store: {slot: array}."""
        saved = self._of_weight.get(self._saved_as.get(weight, weight), {})
        return {slot: self._store[name] for slot, name in saved.items()}

    def fill(self, state: NamedState) -> dict[str, bool]:
        """Fill variables, and return {name of each: whether it was there and fitted}.

        A variable that serves several weights appears under each of them; it takes the first array
        that fits.
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
    """Return whether the array has the shape of the variable."""
    return tuple(array.shape) == tuple(variable.shape)
