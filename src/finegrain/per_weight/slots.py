"""Which of an optimizer's state variables serves which weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import keras

from finegrain._backend.dtypes import precise_dtype
from finegrain.rules.selection import weight_path

# What begins the name of state that serves all weights of an optimizer.
STEP = "step:"

# Lists that hold the optimizer's bookkeeping, not one state variable per weight.
_NOT_SLOTS = {"_variables", "_trainable_variables", "_numbers"}


@runtime_checkable
class KeepsStates(Protocol):
    """An optimizer that says by itself which state its weights depend on.

    `PerWeight` asks it of an optimizer that moves a group and has state that Keras does not see.
    """

    def states(self, weights: Sequence[keras.Variable]) -> list[dict[str, keras.Variable]]:
        """Return {slot: variable} for each weight; names of shared state begin with `STEP`."""
        ...


def states(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> list[dict[str, keras.Variable]]:
    """List the state that each weight depends on: {slot: variable}, shared state under each."""
    if isinstance(optimizer, KeepsStates):
        return optimizer.states(weights)
    return seen_states(optimizer, weights, optimizer.variables)


def seen_states(
    optimizer: keras.optimizers.Optimizer,
    weights: Sequence[keras.Variable],
    variables: Sequence[keras.Variable],
    *,
    prefix: str = "",
    first: int = 0,
    names: Mapping[int, str] | None = None,
) -> list[dict[str, keras.Variable]]:
    """List the state that each weight depends on, among what Keras sees: {slot: variable}.

    Args:
        optimizer: The optimizer.
        weights: Those that it was built with.
        variables: Its state.
        prefix: Begins the names.
        first: The number of the first variable, for those without a name.
        names: What variables are called that no attribute has: id → name.
    """
    slots = list(weight_slots(optimizer, weights))
    known = {id(variable) for *_, variable in slots}
    called = {id(value): f"{prefix}{name.lstrip('_')}" for name, value in vars(optimizer).items()}
    called |= names or {}
    shared = {
        f"{STEP}{called.get(id(variable), str(number))}": variable
        for number, variable in enumerate(variables, first)
        if id(variable) not in known
    }
    result = [dict(shared) for _ in weights]
    for index, slot, variable in slots:
        result[index][f"{prefix}{slot}"] = variable
    return result


def weight_slots(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> Iterator[tuple[int, str, keras.Variable]]:
    """Yield (index of the weight, slot name, variable) for state that serves one weight alone.

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


def set_state(optimizer: keras.optimizers.Optimizer, weights: Sequence[Any]) -> None:
    """Set all state variables of an optimizer that has more of them than Keras sees.

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


def add_precise_slot(
    optimizer: keras.optimizers.Optimizer, weight: keras.Variable, name: str
) -> keras.Variable | None:
    """Add a state variable of the shape and layout of `weight`, in its `precise_dtype`.

    Return `None` for weights that Keras overwrites with their gradients, as Keras's own optimizers
    do.
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
