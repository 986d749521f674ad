"""The rules by which step sizes are learned: what AdaptiveStepSize does in each of its modes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from keras import ops

from finegrain.checks import checked_positive, finite
from finegrain.optimizers.lists import Lists, Tensors

# Of the exponent: exp of more is no float32.
LARGEST = 80.0
# How much of the average of past cosines, and of past gradients, a step keeps.
SMOOTHING = 0.9
# Among noise, a scale falls like (t + DELAY)^-ANNEALING.
ANNEALING, DELAY = 0.25, 100.0
TINY = 1e-30


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

    def __init__(self, lists: Lists) -> None:
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

    def __init__(self, lists: Lists, largest: float) -> None:
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

    def __init__(self, lists: Lists, *, gain_rate: float) -> None:
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

    def __init__(self, lists: Lists, *, gain_rate: float, max_gain: float) -> None:
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
        drift: Whether the tolerance is added to every cosine.
        gain_rate: How fast it learns.
        memory: How much of the past way a step keeps.
        tolerance: How far the gradients may disagree with it.
        max_change: The largest step beside the weights, or `None`.
        first_step: The largest first step beside the weights, or `None`.
    """

    numbers = ("log_scale", "mean_cosine")
    slots = ("way",)

    def __init__(
        self,
        lists: Lists,
        *,
        drift: bool,
        gain_rate: float,
        memory: float,
        tolerance: float,
        max_change: float | None,
        first_step: float | None,
    ) -> None:
        super().__init__(lists)
        self.drift = drift
        self.gain_rate = gain_rate
        self.memory = memory
        self.tolerance = tolerance
        self.max_change = max_change
        self.first_step = first_step

    def multiplier(self, numbers: Tensors, first: Tensors) -> Any:
        """The scale."""
        return ops.exp(ops.convert_to_tensor(numbers[0]))

    def move(self, step: Step) -> list[Any]:
        """By how much each weight moves."""
        lists, (log_scale, mean_cosine) = self.lists, step.numbers
        ways = lists.values(step.first)
        size = lists.norm(step.gradients) * lists.norm(ways)
        cosine = -lists.dot(step.gradients, ways) / (size + TINY)
        cosine = ops.where(ops.isfinite(cosine), cosine, 0.0)
        mean = SMOOTHING * mean_cosine + (1 - SMOOTHING) * cosine
        at_first = ops.equal(step.taken, 0)
        if self.drift:
            growth = self.gain_rate * (cosine + self.tolerance)
        else:
            growth = self._growth(mean, ops.cast(step.taken, "float32"))
        log = log_scale + ops.where(at_first, 0.0, growth)
        log = self._bounded(log, at_first, step)
        log_scale.assign(log)
        mean_cosine.assign(mean)
        moves = lists.multiples(step.steps, step.rate * ops.exp(log))
        # In steps of one size the way turns as soon as they do, however small they have become.
        last = moves if self.drift else step.steps
        lists.blend(step.first, last, self.memory, self.memory)
        return moves

    def _growth(self, cosine: Any, taken: Any) -> Any:
        """Agreement lets steps grow, clear disagreement shrinks them; between they are annealed."""
        annealing = -ANNEALING / (taken + DELAY) if self.gain_rate else 0.0
        shrinking = self.gain_rate * (cosine + self.tolerance)
        falling = ops.where(cosine > -self.tolerance, annealing, shrinking)
        return ops.where(cosine > 0, self.gain_rate * cosine, falling)

    def _bounded(self, log: Any, at_first: Any, step: Step) -> Any:
        """The first step, and each, bounded by the size of the weights."""
        count = sum(math.prod(weight.shape) for weight in step.weights)
        # Weights of 0 can move, too.
        size = ops.maximum(self.lists.norm(step.weights), 1e-3 * math.sqrt(count))
        unit = ops.log(size / (step.rate * self.lists.norm(step.steps) + TINY))
        if self.first_step is not None:
            limit = ops.minimum(log, unit + math.log(self.first_step))
            log = ops.where(at_first, limit, log)
        if self.max_change is not None:
            log = ops.minimum(log, unit + math.log(self.max_change))
        return ops.clip(log, -LARGEST, LARGEST)


MODES: dict[str, type[StepSizes]] = {"scale": Scale, "product": Product, "sign": Sign}
# By mode, that of "scale" by estimator: what is taken where an argument is `None`.
DEFAULTS: dict[str, dict[str, float]] = {
    "alignment": {"gain_rate": 0.2, "memory": 0.96, "tolerance": 0.05},
    "drift": {"gain_rate": 0.1, "memory": 0.99, "tolerance": 0.02},
    "product": {"gain_rate": 0.01},
    "sign": {"gain_rate": 0.01},
}
# What each argument is for, and the defaults of those that are not in the table above.
TAKERS: dict[str, tuple[str, ...]] = {
    "gain_rate": ("alignment", "drift", "product", "sign"),
    "memory": ("alignment", "drift"),
    "tolerance": ("alignment", "drift"),
    "max_change": ("alignment",),
    "first_step": ("alignment", "drift"),
    "max_gain": ("sign",),
}
MAX_CHANGE, FIRST_STEP, MAX_GAIN = 0.02, 1e-3, 100.0
UNTOUCHED = {"max_change": MAX_CHANGE, "first_step": FIRST_STEP, "max_gain": MAX_GAIN}


def rule_of(mode: Any, estimator: Any, lists: Lists, **arguments: Any) -> StepSizes:
    """The mode's rule, with its arguments checked."""
    if mode not in list(MODES):
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
    if mode == "scale":
        values = {"drift": kind == "drift", "max_change": None} | values
    return MODES[mode](lists, **values)


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
