"""How each weight learns, in numbers that people and programs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from finegrain._backend import backend
from finegrain.per_weight import checkpoint
from finegrain.per_weight.describe import WeightReport
from finegrain.per_weight.partition import Selected
from finegrain.per_weight.rulebook import LiveRule, Rulebook
from finegrain.rules.rule import Outcome


def reports(
    book: Rulebook,
    weights: Sequence[keras.Variable],
    selection: Sequence[Selected],
    base: float,
    learned: Mapping[Any, float],
) -> list[WeightReport]:
    """One report a weight, in the given order.

    Args:
        book: The optimizer's rules at work.
        weights: The weights.
        selection: What the rules make of each of them.
        base: The base learning rate.
        learned: By group, what its optimizer multiplies its learning rate by.
    """
    result = []
    seen: dict[Any, tuple[float, float, bool]] = {}
    for (path, _), weight, selected in zip(
        checkpoint.places(weights), weights, selection, strict=True
    ):
        outcome = book.outcome(selected.rules)
        if outcome.group not in seen:
            seen[outcome.group] = rates(book, outcome, base)
        multiplier, rate, moves = seen[outcome.group]
        template = book.template_of(outcome)
        decay = outcome.weight_decay
        if decay is None:
            decay = template.weight_decay(weight) if selected.decays else 0.0
        transforms = [t for index in selected.rules for t in book.rules[index].rule.gradient]
        result.append(
            WeightReport(
                path=path,
                shape=tuple(weight.shape),
                parameters=int(np.prod(weight.shape, dtype=np.int64)),
                optimizer=template.kind,
                learning_rate_multiplier=multiplier,
                effective_learning_rate=rate * learned.get(outcome.group, 1.0),
                weight_decay=decay,
                gradient=tuple(transform.label for transform in transforms),
                trainable=moves,
                rules=tuple(book.rules[index].rule.name for index in selected.rules),
            )
        )
    return result


def rates(book: Rulebook, outcome: Outcome, base: float) -> tuple[float, float, bool]:
    """(multiplier, effective learning rate, whether they move) of weights of this outcome."""
    multiplier = 1.0
    deciding = None if outcome.rate is None else book.rules[outcome.rate]
    absolute = deciding is not None and deciding.rule.learning_rate is not None
    if deciding is not None and absolute:
        rate = _now(deciding, "learning_rate")
    else:
        own = None if outcome.optimizer is None else book.rules[outcome.optimizer]
        if own is None:
            rate = base
        elif own.own_rate_name in own.numbers:
            rate = own.numbers[own.own_rate_name].current()
        else:
            rate = as_float(own.own_rate())
        if deciding is not None:
            multiplier = _now(deciding, "learning_rate_multiplier")
    if outcome.trainable is not None:
        multiplier *= _now(book.rules[outcome.trainable], "trainable")
    moves = multiplier > 0 and not (absolute and rate == 0)
    return multiplier, rate * multiplier, moves


def _now(live: LiveRule, name: str) -> float:
    if name in live.numbers:
        return live.numbers[name].current()
    return as_float(live.value(name))


def as_float(value: Any) -> float:
    """A scalar tensor or variable as a Python float."""
    return float(backend.host_array(value))
