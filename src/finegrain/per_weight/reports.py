"""How each weight learns now: what its rules, its optimizer and their numbers come to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any, NamedTuple

import keras

from finegrain._backend import backend
from finegrain.per_weight.partition import Selected
from finegrain.per_weight.places import places
from finegrain.per_weight.rulebook import LiveRule, Rulebook
from finegrain.rules.rule import Outcome


@dataclass(frozen=True)
class WeightReport:
    """How one weight learns.

    Attributes:
        path: The weight's path, unique within the table.
        shape: Its shape.
        parameters: How many numbers it holds.
        optimizer: Class name of the optimizer that moves it; `"AdamW"` where Keras's Muon leaves
            it to the AdamW within.
        learning_rate_multiplier: What its rate is multiplied by now; 0 where a rule holds it.
        effective_learning_rate: The rate that it learns at now: that of its rule, of its rule's
            optimizer, or the base rate, × multiplier, × what its optimizer makes of it by itself
            (a learned step size, Muon's `adam_lr_ratio`).
        weight_decay: The optimizer's decoupled weight decay. Muon takes it times the rate before
            `adam_lr_ratio`.
        gradient: The transforms of its gradient, in order, with their arguments.
        trainable: Whether it moves now; not if a rule holds it.
        rules: Names of the rules that select it, in order.
        factors: (name of a rule, its factor) for each rule that has a say in the multiplier, which
            is their product; 0 or 1 for a rule that holds or releases.
        dtype: Its dtype, such as `"float32"`.
    """

    path: str
    shape: tuple[int, ...]
    parameters: int
    optimizer: str
    learning_rate_multiplier: float
    effective_learning_rate: float
    weight_decay: float
    gradient: tuple[str, ...]
    trainable: bool
    rules: tuple[str, ...]
    factors: tuple[tuple[str, float], ...]
    dtype: str

    def learns_like(self, other: WeightReport) -> bool:
        """Return whether the reports differ at most in the weights' paths, shapes and sizes."""
        return self.manner == other.manner

    @property
    def manner(self) -> tuple[Any, ...]:
        """All fields but path, shape and size: what weights that learn alike have in common."""
        names = (field.name for field in fields(self))
        return tuple(getattr(self, n) for n in names if n not in ("path", "shape", "parameters"))


def reports(
    book: Rulebook,
    weights: Sequence[keras.Variable],
    selection: Sequence[Selected],
    base: float,
    learned: Mapping[Any, float],
) -> list[WeightReport]:
    """Report how each weight learns, one report per weight in the given order.

    Args:
        book: The optimizer's rules at work.
        weights: The weights.
        selection: What the rules make of each of them.
        base: The base learning rate.
        learned: By group, what its optimizer multiplies its learning rate by.
    """
    result = []
    seen: dict[Any, Rate] = {}
    for (path, _), weight, selected in zip(places(weights), weights, selection, strict=True):
        outcome = book.outcome(selected.rules)
        if outcome.group not in seen:
            seen[outcome.group] = rate_of(book, outcome, base)
        rate = seen[outcome.group]
        template = book.template_of(outcome)
        decay = outcome.weight_decay
        if outcome.decay is not None:
            decay = book.rules[outcome.decay].numbers["weight_decay"].current()
        if decay is None:
            decay = template.weight_decay(weight) if selected.decays else 0.0
        by_itself = learned.get(outcome.group, 1.0) * template.ratio(weight)
        transforms = [t for index in selected.rules for t in book.rules[index].rule.gradient]
        result.append(
            WeightReport(
                path=path,
                shape=tuple(weight.shape),
                parameters=prod(weight.shape),
                optimizer=template.mover(weight),
                learning_rate_multiplier=rate.multiplier,
                effective_learning_rate=rate.effective * by_itself,
                weight_decay=decay,
                gradient=tuple(transform.label for transform in transforms),
                trainable=rate.moves,
                rules=tuple(book.rules[index].rule.name for index in selected.rules),
                factors=rate.factors,
                dtype=keras.backend.standardize_dtype(weight.dtype),
            )
        )
    return result


class Rate(NamedTuple):
    """The rate of a group as the rules give it."""

    factors: tuple[tuple[str, float], ...]
    multiplier: float
    effective: float
    moves: bool


def rate_of(book: Rulebook, outcome: Outcome, base: float) -> Rate:
    """Compute the present rate of weights of this outcome."""
    factors: list[tuple[str, float]] = []
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
            factors.append((deciding.rule.name, _now(deciding, "learning_rate_multiplier")))
    for live in (book.rules[index] for index in outcome.factors):
        factors.append((live.rule.name, _now(live, "learning_rate_multiplier")))
    if outcome.trainable is not None:
        switch = book.rules[outcome.trainable]
        warmed = _now(switch, "trainable") * as_float(switch.warmth())
        factors.append((switch.rule.name, warmed))
    multiplier = float(prod(factor for _, factor in factors))
    moves = multiplier > 0 and not (absolute and rate == 0)
    return Rate(tuple(factors), multiplier, rate * multiplier, moves)


def rates_of_rules(
    book: Rulebook,
    weights: Sequence[keras.Variable],
    selection: Sequence[Selected],
    rates: Sequence[float],
    learned: Collection[Any],
) -> dict[str, list[float]]:
    """Collect the rates of each rule's weights: {rule: rates}, `"no rule"` for all other weights.

    Those that always have the same rate count once.

    Args:
        book: The optimizer's rules at work.
        weights: The weights.
        selection: What the rules make of each of them.
        rates: Their effective learning rates.
        learned: The groups that learn a rate of their own.
    """
    found: dict[str, dict[Any, float]] = {live.key: {} for live in book.rules}
    for weight, selected, rate in zip(weights, selection, rates, strict=True):
        outcome = book.outcome(selected.rules)
        decided = (outcome.optimizer, outcome.rate, outcome.factors, outcome.trainable)
        template = book.template_of(outcome)
        source = (outcome.group if outcome.group in learned else decided, template.ratio(weight))
        for name in [book.rules[index].key for index in selected.rules] or ["no rule"]:
            found.setdefault(name, {})[source] = rate
    return {name: list(by_source.values()) for name, by_source in found.items() if by_source}


def _now(live: LiveRule, name: str) -> float:
    if name in live.numbers:
        return live.numbers[name].current()
    return as_float(live.value(name))


def as_float(value: Any) -> float:
    """Convert a scalar tensor or variable to a Python float."""
    return float(backend.host_array(value))
