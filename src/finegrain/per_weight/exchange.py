"""Other rules for an optimizer that is already built, and may have trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from finegrain._backend import backend
from finegrain.per_weight.checkpoint import number_name
from finegrain.per_weight.partition import FromFile, Selected
from finegrain.per_weight.places import places
from finegrain.per_weight.rulebook import Rulebook
from finegrain.rules.rule import Rule, select_weights


def exchange_rules(optimizer: Any, removed: Sequence[str], added: Sequence[Rule]) -> None:
    """Take rules out of a built `PerWeight` and put others behind those that stay.

    The weights keep their slots and step counts, the rules that stay their numbers. Added rules
    take the numbers of removed ones of the same name, or those that a file has for them.
    The training step has to be made anew, since the optimizer has other variables.

    Args:
        optimizer: The `PerWeight`, between steps.
        removed: Keys of rules without gradient transforms.
        added: Rules without gradient transforms and optimizers.

    Raises:
        ValueError: if an added rule selects no weight. Then nothing has changed.
    """
    weights, old = optimizer._trainable_variables, optimizer._book
    chosen = select_weights(added, weights)
    added = [
        # By now it is known which weights a function selects; a file has no functions.
        rule.selecting([w for w, of in zip(weights, chosen, strict=True) if index in of])
        for index, rule in enumerate(added)
    ]
    kept = [live for live in old.rules if live.key not in removed]
    index_of = {old.rules.index(live): place for place, live in enumerate(kept)}
    selection = [
        Selected(
            (
                *(index_of[rule] for rule in selected.rules if rule in index_of),
                *(len(kept) + rule for rule in more),
            ),
            selected.decays,
        )
        for selected, more in zip(optimizer._partition.selection, chosen, strict=True)
    ]
    former = old._numbers.variable
    with backend.scope_of(weights):
        book = optimizer._rulebook(old.template, [*(live.rule for live in kept), *added])
    try:
        partition = optimizer._partition.under(book, selection, weights)
    except Exception:
        _forget(optimizer, book._numbers.variable)
        raise
    _carry_over(optimizer, old, book)
    _forget(optimizer, former)
    optimizer._book, optimizer._partition = book, partition
    # The selection that a file gave knew other rules.
    if optimizer._from_file is not None:
        optimizer._from_file = FromFile(
            [
                (path, shape, list(selected.rules), selected.decays)
                for (path, shape), selected in zip(places(weights), selection, strict=True)
            ]
        )
    optimizer._is_traced = False


def _carry_over(optimizer: Any, old: Rulebook, book: Rulebook) -> None:
    """Give the numbers of `book` the values that they have by now."""
    variable = book._numbers.variable
    if variable is None:
        return
    known = {number_name(live, number): number.read() for live, number in old.numbers()}
    values = backend.host_array(variable)
    for live, number in book.numbers():
        name = number_name(live, number)
        if name in known:
            values[number.place] = known[name]
        elif name in optimizer._unclaimed:
            configured, current = optimizer._unclaimed.pop(name)
            if np.float32(number.configured) in (configured, current):
                values[number.place] = current
    variable.assign(values)


def _forget(optimizer: Any, variable: keras.Variable | None) -> None:
    """Take a variable out of those of the optimizer."""
    if variable is not None:
        optimizer._tracker.untrack(variable)
