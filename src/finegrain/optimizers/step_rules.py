"""The rules by which step sizes are learned: what AdaptiveStepSize does in each of its modes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from keras import ops

from finegrain._backend.lists import Tensors
from finegrain._checks import checked_positive, finite

# Of the exponent: exp of more is no float32.
LARGEST = 80.0
TINY = 1e-30
# How much of an average a step keeps: of gradients and slopes, of squared slopes and of squared
# gradients.
SMOOTHING, SPREAD, USUAL = 0.9, 0.99, 0.98
# A scale changes by at most gain_rate / (t + DELAY), but for a spike: more than so many times the
# usual gradient.
DELAY, SPIKE = 25.0, 2.25
# The step s counts in the way like (s / t) ** FADING, once t is beyond the first ones.
FADING, FIRST_ONES = 1.5, 15.0


class Step(NamedTuple):
    """What a rule is told of a step, with a tensor, or its own variable, for each weight."""

    taken: Any
    """How many steps were taken before."""
    rate: Any
    """The learning rate."""
    gradients: Tensors
    steps: Tensors
    """Those of the optimizer at learning rate 1."""
    weights: Tensors
    """As they were."""
    numbers: Tensors
    """The rule's scalars, which it assigns to."""
    first: Tensors
    """The rule's state, likewise."""
    second: Tensors
    """Its second, if it has two."""


class StepSizes(ABC):
    """A rule that gives steps their size, with state of its own.

    Args:
        lists: Arithmetic on lists of tensors.
    """

    numbers: ClassVar[tuple[str, ...]] = ()
    """The names of its scalars."""
    slots: ClassVar[tuple[str, ...]] = ()
    """The names of its state for each weight, two at most."""

    def __init__(self, lists: Any) -> None:
        self.lists = lists

    @abstractmethod
    def multiplier(self, numbers: Tensors, first: Tensors) -> Any:
        """What the learning rate is multiplied by, all in all."""

    @abstractmethod
    def move(self, step: Step) -> list[Any]:
        """By how much each weight moves."""


class Gains(StepSizes):
    """One size for each number of each weight: its log is the first slot.

    Args:
        lists: Arithmetic on lists of tensors.
        largest: The bound of the logs.
    """

    def __init__(self, lists: Any, largest: float) -> None:
        super().__init__(lists)
        self.largest = largest

    def multiplier(self, numbers: Tensors, first: Tensors) -> Any:
        """The geometric mean of all."""
        gains = [gain for gain in first if gain is not None]
        count = sum(math.prod(gain.shape) for gain in gains)
        return ops.exp(self.lists.total(self.lists.values(gains)) / count)

    def move(self, step: Step) -> list[Any]:
        """By how much each weight moves."""
        lists = self.lists
        grown = lists.sums(lists.values(step.first), self.growth(step))
        logs = lists.clipped(grown, self.largest)
        lists.assign(step.first, logs)
        sizes = lists.multiples(lists.exponentials(logs), step.rate)
        return lists.products(sizes, step.steps)

    @abstractmethod
    def growth(self, step: Step) -> list[Any]:
        """What the logs of the gains grow by; assigns the second slot."""


class Product(Gains):
    """By the product of two successive gradients: the article's formula.

    Args:
        lists: Arithmetic on lists of tensors.
        gain_rate: How fast it learns.
    """

    slots = ("log_gain", "previous_gradient")

    def __init__(self, lists: Any, *, gain_rate: float) -> None:
        super().__init__(lists, LARGEST)
        self.gain_rate = gain_rate

    def growth(self, step: Step) -> list[Any]:
        """γ times the products."""
        lists = self.lists
        products = lists.products(lists.values(step.second), step.gradients)
        lists.assign(step.second, step.gradients)
        return lists.multiples(products, self.gain_rate)


class Sign(Gains):
    """By whether the gradient has the sign of the average of past ones; bounded.

    Args:
        lists: Arithmetic on lists of tensors.
        gain_rate: How fast it learns.
        max_gain: The largest gain.
    """

    slots = ("log_gain", "mean_gradient")

    def __init__(self, lists: Any, *, gain_rate: float, max_gain: float) -> None:
        super().__init__(lists, min(math.log(max_gain), LARGEST))
        self.gain_rate = gain_rate

    def growth(self, step: Step) -> list[Any]:
        """γ or −γ, where there is a sign."""
        lists = self.lists
        signs = lists.signs(lists.values(step.second)), lists.signs(step.gradients)
        lists.blend(step.second, step.gradients, SMOOTHING, 1 - SMOOTHING)
        return lists.multiples(lists.products(*signs), self.gain_rate)


class Scale(StepSizes):
    """One size for all, by the angle between the gradient and the way that the weights came.

    Args:
        lists: Arithmetic on lists of tensors.
        gain_rate: How fast it learns.
        tolerance: How far the gradients may disagree with the way.
        first_step: The largest first step beside the weights, or `None`.
        max_change: The largest step beside the weights, or `None`.
    """

    numbers = ("log_scale",)
    slots = ("way",)

    def __init__(
        self,
        lists: Any,
        *,
        gain_rate: float,
        tolerance: float,
        first_step: float | None,
        max_change: float | None = None,
    ) -> None:
        super().__init__(lists)
        self.gain_rate = gain_rate
        self.tolerance = tolerance
        self.first_step = first_step
        self.max_change = max_change

    def multiplier(self, numbers: Tensors, first: Tensors) -> Any:
        """The scale."""
        return ops.exp(ops.convert_to_tensor(numbers[0]))

    def move(self, step: Step) -> list[Any]:
        """By how much each weight moves."""
        lists, log_scale = self.lists, step.numbers[0]
        ways, gradient = lists.values(step.first), lists.norm(step.gradients)
        size = gradient * lists.norm(ways)
        cosine = -lists.dot(step.gradients, ways) / (size + TINY)
        # There is none before the second step, and where there is no gradient.
        known = ops.logical_and(size > 0, ops.isfinite(cosine))
        growth = self.growth(step, gradient, ops.where(known, cosine, 0.0), known)
        log = self._bounded(log_scale + growth, step)
        log_scale.assign(log)
        moves = lists.multiples(step.steps, step.rate * ops.exp(log))
        self.go_on(step, moves)
        return moves

    @abstractmethod
    def growth(self, step: Step, gradient: Any, cosine: Any, known: Any) -> Any:
        """What the log of the scale grows by.

        Args:
            step: The step.
            gradient: The gradient's norm.
            cosine: That of the angle between the way and the descent; 0 where there is none.
            known: Whether there is one.
        """

    @abstractmethod
    def go_on(self, step: Step, moves: list[Any]) -> None:
        """Adds the step to the way."""

    def _bounded(self, log: Any, step: Step) -> Any:
        """The first step, and each, bounded by the size of the weights."""
        count = sum(math.prod(weight.shape) for weight in step.weights)
        # Weights of 0 can move, too.
        size = ops.maximum(self.lists.norm(step.weights), 1e-3 * math.sqrt(count))
        unit = ops.log(size / (step.rate * self.lists.norm(step.steps) + TINY))
        if self.first_step is not None:
            limit = ops.minimum(log, unit + math.log(self.first_step))
            log = ops.where(ops.equal(step.taken, 0), limit, log)
        if self.max_change is not None:
            log = ops.minimum(log, unit + math.log(self.max_change))
        return ops.clip(log, -LARGEST, LARGEST)


class Drift(Scale):
    """By the cosine with the distance from a slow average of the weights, plus a constant.

    Args:
        lists: Arithmetic on lists of tensors.
        memory: How much of the past distance a step keeps.
        **arguments: Those of `Scale`.
    """

    def __init__(self, lists: Any, *, memory: float, **arguments: Any) -> None:
        super().__init__(lists, **arguments)
        self.memory = memory

    def growth(self, step: Step, gradient: Any, cosine: Any, known: Any) -> Any:
        """γ (c + κ)."""
        growth = self.gain_rate * (cosine + self.tolerance)
        return ops.where(ops.equal(step.taken, 0), 0.0, growth)

    def go_on(self, step: Step, moves: list[Any]) -> None:
        """Adds what the weights moved."""
        self.lists.accumulate(step.first, moves, self.memory)


class Alignment(Scale):
    """By the slope along the way from the start, beside its own spread; back at a spike."""

    numbers = ("log_scale", "mean_slope", "mean_square_slope", "mean_square_gradient")

    def growth(self, step: Step, gradient: Any, cosine: Any, known: Any) -> Any:
        """The share of γ / (t + DELAY) that the slope is worth, or the answer to a spike."""
        if not self.gain_rate:
            return ops.zeros_like(gradient)
        taken = ops.cast(step.taken, "float32")
        slope = ops.where(known, cosine * gradient, 0.0)
        mean = _averaged(step.numbers[1], slope, SMOOTHING)
        square = _averaged(step.numbers[2], slope * slope, SPREAD)
        # As they begin with 0, the sum of their weights is not 1 at first.
        count = ops.maximum(taken, 1.0)
        mean, square = mean / (1 - SMOOTHING**count), square / (1 - SPREAD**count)
        usual = self._usual(step.numbers[3], gradient)
        # Noise has many directions and leaves little along the way. Where that is most of the
        # gradient, weights swing round a minimum, and there is nothing to tolerate.
        tolerance = self.tolerance * ops.maximum(1 - square / (usual * usual + TINY), 0.0)
        share = ops.clip(mean / (ops.sqrt(square) + TINY) + tolerance, -1.0, 1.0)
        growth = ops.where(known, self.gain_rate / (taken + DELAY) * share, 0.0)
        excess = ops.log(gradient / (SPIKE * usual + TINY))
        excess = ops.where(ops.isfinite(gradient), ops.clip(excess, 0.0, math.log(4.0)), 0.0)
        return ops.where(excess > 0, ops.minimum(growth, -excess / 2), growth)

    def _usual(self, mean_square: Any, gradient: Any) -> Any:
        """The usual norm of a gradient, as it was before this one; this one's if it is the first.

        An infinite one leaves no trace: a clipped step may come of it.
        """
        before, now = ops.convert_to_tensor(mean_square), gradient * gradient
        finite = ops.isfinite(now)
        before = ops.where(ops.logical_and(finite, ops.equal(before, 0)), now, before)
        mean_square.assign(ops.where(finite, USUAL * before + (1 - USUAL) * now, before))
        return ops.sqrt(before)

    def go_on(self, step: Step, moves: list[Any]) -> None:
        """Adds the step at rate 1: in its own size the way would turn as soon as it shrinks."""
        taken = ops.cast(step.taken, "float32")
        self.lists.accumulate(step.first, step.steps, 1 - FADING / (taken + FIRST_ONES))


def _averaged(average: Any, value: Any, keep: float) -> Any:
    """What the average becomes by the value; it is assigned."""
    value = keep * ops.convert_to_tensor(average) + (1 - keep) * value
    average.assign(value)
    return value


MODES = ("scale", "product", "sign")
# By mode, that of "scale" by estimator.
RULES: dict[str, type[StepSizes]] = {
    "alignment": Alignment,
    "drift": Drift,
    "product": Product,
    "sign": Sign,
}
# What is taken where an argument is `None`.
DEFAULTS: dict[str, dict[str, float]] = {
    "alignment": {"gain_rate": 20.0, "tolerance": 0.4},
    "drift": {"gain_rate": 0.1, "memory": 0.99, "tolerance": 0.02},
    "product": {"gain_rate": 0.01},
    "sign": {"gain_rate": 0.01},
}
# What each argument is for, and the defaults of those that are not in the table above.
TAKERS: dict[str, tuple[str, ...]] = {
    "gain_rate": ("alignment", "drift", "product", "sign"),
    "memory": ("drift",),
    "tolerance": ("alignment", "drift"),
    "max_change": ("alignment",),
    "first_step": ("alignment", "drift"),
    "max_gain": ("sign",),
}
MAX_CHANGE, FIRST_STEP, MAX_GAIN = 0.015, 1e-3, 100.0
UNTOUCHED = {"max_change": MAX_CHANGE, "first_step": FIRST_STEP, "max_gain": MAX_GAIN}


def rule_of(mode: Any, estimator: Any, lists: Any, **arguments: Any) -> StepSizes:
    """The mode's rule, with its arguments checked."""
    if mode not in MODES:
        raise ValueError(
            f"`mode` should be one of {', '.join(map(repr, MODES))}. Received: mode={mode!r}"
        )
    if estimator not in ("alignment", "drift"):
        raise ValueError(
            f"`estimator` should be 'alignment' or 'drift'. Received: estimator={estimator!r}"
        )
    if mode != "scale" and estimator != "alignment":
        raise ValueError(
            "`estimator` is an argument of mode='scale'. "
            f"Received: estimator={estimator!r}, mode={mode!r}"
        )
    kind = estimator if mode == "scale" else mode
    defaults = DEFAULTS[kind]
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        if kind in TAKERS[name]:
            given = defaults[name] if value is None and name in defaults else value
            values[name] = CHECKS[name](name, given)
        elif value is not None and value != UNTOUCHED.get(name):
            raise ValueError(
                f"`{name}` is an argument of {' and '.join(map(repr, TAKERS[name]))} only: "
                f"{kind!r} has no use for it. Received: {name}={value!r}"
            )
    return RULES[kind](lists, **values)


def _rate(name: str, value: Any) -> float:
    return checked_positive(name, value, zero=True)


def _share(name: str, value: Any) -> float:
    number = finite(value)
    if number is None or not 0 <= number < 1:
        raise ValueError(f"`{name}` should be a number in [0, 1). Received: {name}={value!r}")
    return number


def _bound(name: str, value: Any) -> float | None:
    return None if value is None else checked_positive(name, value)


def _beyond_one(name: str, value: Any) -> float:
    number = checked_positive(name, value)
    if number <= 1:
        raise ValueError(f"`{name}` should be greater than 1. Received: {name}={value!r}")
    return number


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "gain_rate": _rate,
    "memory": _share,
    "tolerance": _share,
    "max_change": _bound,
    "first_step": _bound,
    "max_gain": _beyond_one,
}
