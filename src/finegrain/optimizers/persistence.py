"""What of a PerWeight is saved, and under which names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from finegrain.optimizers import checkpoint
from finegrain.optimizers.rulebook import LiveRule, Number
from finegrain.optimizers.slots import step_state, weight_slots


def named_state(optimizer: Any) -> Iterator[tuple[str, keras.Variable]]:
    """Every state variable under a name that depends on neither grouping nor backend.

    A group's step counts appear under each of its weights: they follow the weights into
    other groups.
    """
    state = optimizer._state
    weights = optimizer._trainable_variables
    names = [checkpoint.key(path) for path, _ in checkpoint.places(weights)]
    name_of = dict(zip(map(optimizer._var_key, weights), names, strict=True))
    for index, slot, variable in weight_slots(optimizer, weights):
        yield f"{names[index]}:{slot}", variable
    yield "iterations", optimizer._iterations
    if isinstance(optimizer._learning_rate, keras.Variable):
        yield "learning_rate", optimizer._learning_rate
    if state.guard is not None:
        yield "skipped_steps", state.guard.skipped
    for group in state.groups:
        members = [name_of[optimizer._var_key(weight)] for weight in group.weights]
        for index, slot, variable in weight_slots(group.optimizer, group.weights):
            yield f"{members[index]}:{slot}", variable
        for name, variable in step_state(group.optimizer, group.weights, group.optimizer.variables):
            for member in members:
                yield f"{member}:step:{name}", variable
    for rule, place, transform in state.transforms:
        prefix = f"gradient:{checkpoint.key(rule)}:{place}"
        for name, variable, weight in transform.state:
            if weight is None:
                yield f"{prefix}:{name}", variable
            else:
                yield f"{name_of[optimizer._var_key(weight)]}:{prefix}:{name}", variable


def save(optimizer: Any, store: Any) -> None:
    """Writes the state, and the rules' numbers: each as it was configured, and as it is now."""
    optimizer._state.hand_out_counts()
    checkpoint.save(store, named_state(optimizer), optimizer._trainable_variables)
    for live, number in optimizer._state.book.numbers():
        store[_name(live, number)] = np.array([number.configured, number.read()], "float32")


def load(optimizer: Any, store: Any) -> None:
    """Reads what `save` wrote, and warns of what it did not find."""
    state = optimizer._state
    filled = checkpoint.load(store, named_state(optimizer), optimizer._trainable_variables)
    state.collect_counts()
    names = set(store.keys())
    for live, number in state.book.numbers():
        if _name(live, number) in names:
            configured, current = np.asarray(store[_name(live, number)])
            # A loaded model's config has the current number, as far as it can hold it.
            if np.float32(number.configured) in (configured, number.in_config(current)):
                number.assign(float(current))
    if state.guard is not None:
        state.guard.forget()
    if "iterations" in names and not any(name.endswith(":place") for name in names):
        return  # saved before there was anything to save
    optional = {"skipped_steps"}
    missing = [name for name, found in filled.items() if not found and name not in optional]
    if missing:
        warnings.warn(
            f"The saved state lacks {len(missing)} of {len(filled)} variables of optimizer "
            f"{optimizer.name!r}; they keep their values: {missing[:5]}"
            f"{' and more' if len(missing) > 5 else ''}. The file may come from another "
            "model or another optimizer.",
            stacklevel=3,
        )


def selection(optimizer: Any) -> list[tuple[str, list[int], list[int], bool]]:
    """Which rules select which weight, and which weights decay, for the config."""
    state = optimizer._state
    if not optimizer.built:
        return state.saved_selection
    places = checkpoint.places(optimizer._trainable_variables)
    return [
        (path, shape, list(selected.rules), selected.decays)
        for (path, shape), selected in zip(places, state.selection, strict=True)
    ]


def rule_configs(optimizer: Any) -> list[dict[str, Any]]:
    """The configs of the rules, with their numbers as they are now."""
    return [_rule_config(optimizer, index) for index in range(len(optimizer._state.book.rules))]


def _rule_config(optimizer: Any, index: int) -> dict[str, Any]:
    live = optimizer._state.book.rules[index]
    rule = live.rule
    if optimizer.built:
        # By now it is known what a function selects.
        rule = rule.selecting(
            [
                weight
                for weight, selected in zip(
                    optimizer._trainable_variables, optimizer._state.selection, strict=True
                )
                if index in selected.rules
            ]
        )
    config = rule.get_config()
    for name, number in live.numbers.items():
        current = number.current()
        if name == "trainable":
            config[name] = current > 0
        elif rule.template is not None and rule.learning_rate is None and name == "learning_rate":
            config["optimizer"] = rule.template.serialize(learning_rate=current)
        else:
            config[name] = current
    return config


def _name(live: LiveRule, number: Number) -> str:
    return f"rule:{checkpoint.key(live.key)}:{number.property_name}"
