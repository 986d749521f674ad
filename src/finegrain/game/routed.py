"""Gradients of several losses from one forward pass, each with respect to the weights it is for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from finegrain._backend import backend
from finegrain.routing.overlay import Overlay

Tensor = Any
Combination = Callable[[list[list[Any]]], list[Any]]


class Routed(NamedTuple):
    """What one forward pass gave."""

    found: Any
    """What the function returned, constant."""
    gradients: list[Tensor | None]
    """For each variable; `None` where no loss reaches it."""
    total: Tensor
    """The sum of all losses, those that layers added among them; constant."""
    updates: list[tuple[Any, Tensor]]
    """New values of variables that are not trained."""


def routed(
    function: Callable[[], tuple[Mapping[str, Tensor], Any]],
    variables: Sequence[keras.Variable],
    reach: Mapping[str, Sequence[int]],
    networks: Sequence[keras.layers.Layer],
    combine: Combination | None = None,
) -> Routed:
    """Call a function once, and compute the gradient of each of its losses where it is to go.

    Args:
        function: Returns losses, scalars by name, and whatever else.
        variables: The trainable weights.
        reach: For the names of losses, indices of the variables that they reach. Other losses
            move nothing.
        networks: What layers belong to: a loss that a layer adds in its call reaches the weights
            of its own networks.
        combine: What makes one gradient of several that reach the same weights. Their sum, unless
            given.
    """
    targets: list[tuple[int, ...]] = []
    updated: list[Any] = []

    def run(values: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        read = {id(v): value for v, value in zip(variables, values, strict=True)}
        with Overlay(variables, lambda variable, value: read[id(variable)]) as scope:
            losses, rest = function()
        aims = [(tuple(reach[name]), loss) for name, loss in losses.items() if name in reach]
        for loss in scope.losses:
            own = _own_weights(loss, networks, variables)
            aims.append((own, ops.sum(loss)))
        if combine is None:
            aims = _merged(aims)
        updates = scope.statistics()
        targets[:] = [where for where, _ in aims]
        updated[:] = [variable for variable, _ in updates]
        return [_float32(loss) for _, loss in aims], (rest, [new for _, new in updates])

    with Overlay(variables) as around:
        values = [around.values[id(variable)] for variable in variables]
    outputs, (rest, new_values), pull = backend.pullback(run, values)
    pulled = [
        dict(zip(where, pull(output, where), strict=True)) if where else {}
        for output, where in enumerate(targets)
    ]
    gradients = _combined(pulled, len(variables), combine)
    rest, total = keras.tree.map_structure(ops.stop_gradient, (rest, sum(outputs)))
    return Routed(rest, gradients, total, list(zip(updated, new_values, strict=True)))


def switched(
    index: Tensor,
    branches: Sequence[Callable[[], Routed]],
    variables: Sequence[keras.Variable],
    states: Sequence[Any],
) -> Routed:
    """Run one of the branches.

    Args:
        index: Which one, an integer scalar.
        branches: Each is a call of `routed`.
        variables: The trainable weights.
        states: All that a branch may assign to.
    """

    def run(branch: Callable[[], Routed]) -> tuple[Any, ...]:
        with Overlay(states) as scope:
            result = branch()
            for variable, value in result.updates:
                variable.assign(value)
            values = [scope.get_current_value(state) for state in states]
        gradients = [
            ops.zeros(variable.shape, variable.dtype) if gradient is None else gradient
            for variable, gradient in zip(variables, result.gradients, strict=True)
        ]
        return result.found, gradients, result.total, values

    outcome = ops.switch(index, [functools.partial(run, branch) for branch in branches])
    found, gradients, total, values = outcome
    return Routed(found, gradients, total, list(zip(states, values, strict=True)))


def with_gradients(
    value: Tensor, variables: Sequence[keras.Variable], gradients: Sequence[Tensor | None]
) -> Tensor:
    """Return a scalar as it is, with these gradients with respect to the variables.

    The gradients are constants. That the scalar is computed from the variables does not matter.
    """
    slope = ops.zeros((), value.dtype)
    for variable, gradient in zip(variables, gradients, strict=True):
        if gradient is None:
            continue
        weight = ops.convert_to_tensor(variable)
        constant = ops.cast(ops.stop_gradient(gradient), weight.dtype)
        slope = slope + ops.cast(ops.sum(weight * constant), value.dtype)
    return backend.straight_through(ops.stop_gradient(value), slope)


def _merged(aims: Sequence[tuple[tuple[int, ...], Tensor]]) -> list[tuple[tuple[int, ...], Tensor]]:
    """Add up losses that reach the same weights: one backward pass serves them."""
    sums: dict[tuple[int, ...], Tensor] = {}
    for where, loss in aims:
        sums[where] = sums[where] + loss if where in sums else loss
    return list(sums.items())


def _own_weights(
    loss: Tensor, networks: Sequence[keras.layers.Layer], variables: Sequence[keras.Variable]
) -> tuple[int, ...]:
    """Return the indices of the weights of those networks that added the loss, or of all."""
    owners = [
        network
        for network in networks
        # Keras's layers know the losses that they added under a scope by their ids.
        if any(id(loss) in getattr(layer, "_loss_ids", ()) for layer in network._flatten_layers())
    ]
    ids = {id(variable) for network in owners for variable in network.trainable_variables}
    return tuple(i for i, variable in enumerate(variables) if not owners or id(variable) in ids)


def _combined(
    pulled: Sequence[Mapping[int, Tensor]], number: int, combine: Combination | None
) -> list[Tensor | None]:
    """Make one gradient for each of so many variables of those that the losses have."""
    gradients: list[Tensor | None] = [None] * number
    if combine is None:
        for own in pulled:
            for index, gradient in own.items():
                known = gradients[index]
                gradients[index] = gradient if known is None else known + gradient
        return gradients
    # Weights that the same losses reach are combined together: whether gradients are in conflict
    # is a question to all of them.
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in range(number):
        losses = tuple(i for i, own in enumerate(pulled) if index in own)
        if losses:
            groups.setdefault(losses, []).append(index)
    for losses, indices in groups.items():
        of_each = [[pulled[loss][index] for index in indices] for loss in losses]
        together = of_each[0] if len(of_each) == 1 else combine(of_each)
        for index, gradient in zip(indices, together, strict=True):
            gradients[index] = gradient
    return gradients


def _float32(loss: Tensor) -> Tensor:
    dtype = keras.backend.standardize_dtype(loss.dtype)
    return loss if dtype in ("float32", "float64") else ops.cast(loss, "float32")
