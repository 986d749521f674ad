"""What of a PerWeight is saved, and under which names."""

from __future__ import annotations

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


def save_numbers(optimizer: Any, store: Any) -> None:
    """Writes the rules' numbers: each as it was configured, and as it is now."""
    for live, number in optimizer._state.book.numbers():
        store[_name(live, number)] = np.array([number.configured, number.read()], "float32")


def load_numbers(optimizer: Any, store: Any) -> None:
    """Restores the numbers of the rules that still say what they said when the file was written."""
    names = set(store.keys())
    for live, number in optimizer._state.book.numbers():
        if _name(live, number) in names:
            configured, current = np.asarray(store[_name(live, number)])
            # A loaded model's config has the current number, as far as it can hold it.
            if np.float32(number.configured) in (configured, number.in_config(current)):
                number.assign(float(current))


def rule_config(optimizer: Any, index: int) -> dict[str, Any]:
    """The config of a rule at work, with its numbers as they are now."""
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
