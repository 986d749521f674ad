"""Which of an optimizer's state variables serves which weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from finegrain._backend.dtypes import precise_dtype
from finegrain.rules.selection import weight_path

# What begins the name of state that serves all weights of an optimizer.
STEP = "step:"

# Lists that hold the optimizer's bookkeeping, not one state variable per weight.
_NOT_SLOTS = {"_variables", "_trainable_variables"}


def weight_slots(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> Iterator[tuple[int, str, keras.Variable]]:
    """The state variables that serve one weight each: (index of the weight, slot name, variable).

    Keras optimizers keep their slots in lists parallel to the weights they were built with and
    look them up by the weight's index; the attribute's name is the slot's name. Variable names
    would not do: `Adafactor` names its factors after the last part of the path only.
    """
    for attribute, slots in vars(optimizer).items():
        if attribute in _NOT_SLOTS or not isinstance(slots, list) or len(slots) != len(weights):
            continue
        for index, slot in enumerate(slots):
            if isinstance(slot, keras.Variable):
                yield index, attribute.lstrip("_"), slot
    inner = _held(optimizer)
    if inner is not None:
        for index, name, slot in weight_slots(inner, weights):
            yield index, f"inner_{name}", slot


def step_state(
    optimizer: keras.optimizers.Optimizer,
    weights: Sequence[keras.Variable],
    variables: Sequence[keras.Variable],
) -> Iterator[tuple[str, keras.Variable]]:
    """Those of `variables` that serve all weights, such as step counts: (name, variable)."""
    slots = {id(variable) for _, _, variable in weight_slots(optimizer, weights)}
    names = {id(value): name for name, value in vars(optimizer).items()}
    inner = _held(optimizer)
    if inner is not None:
        names |= {id(value): f"inner_{name.lstrip('_')}" for name, value in vars(inner).items()}
        names |= {id(number): number.name for number in vars(optimizer).get("_numbers", [])}
    for position, variable in enumerate(variables):
        if id(variable) not in slots:
            yield names.get(id(variable), str(position)).lstrip("_"), variable


def states(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> list[dict[str, keras.Variable]]:
    """All state that each of `weights` depends on: {slot: variable}, shared ones under each."""
    shared = {
        f"{STEP}{name}": variable
        for name, variable in step_state(optimizer, weights, optimizer.variables)
    }
    result = [dict(shared) for _ in weights]
    for index, slot, variable in weight_slots(optimizer, weights):
        result[index][slot] = variable
    return result


def set_state(optimizer: keras.optimizers.Optimizer, weights: Sequence[Any]) -> None:
    """Sets all state variables of an optimizer that has more of them than Keras sees.

    Raises:
        ValueError: if there is not one array for each of `optimizer.variables`.
    """
    variables = optimizer.variables
    if not optimizer.built or len(weights) != len(variables):
        raise ValueError(
            "`set_weights` takes one array for each of `optimizer.variables` of a built "
            f"optimizer. Received: {len(weights)} arrays for {len(variables)} variables, "
            f"built={optimizer.built}"
        )
    for variable, value in zip(variables, weights, strict=True):
        variable.assign(value)


def _held(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer | None:
    """The optimizer that AdaptiveStepSize keeps out of Keras's sight."""
    return getattr(getattr(optimizer, "_state", None), "inner", None)


def add_precise_slot(
    optimizer: keras.optimizers.Optimizer, weight: keras.Variable, name: str
) -> keras.Variable | None:
    """A new state variable of the shape and layout of `weight`, in its `precise_dtype`.

    `None` for weights that Keras overwrites with their gradients, as its own optimizers have it.
    """
    if optimizer._overwrite_variable_with_gradient(weight):
        return None
    if keras.backend.standardize_dtype(weight.dtype) == precise_dtype(weight):
        return optimizer.add_variable_from_reference(weight, name=name)
    return optimizer.add_variable(
        weight.shape,
        dtype=precise_dtype(weight),
        layout=getattr(weight, "_layout", None),
        name=f"{weight_path(weight).replace('/', '_')}_{name}",
    )
