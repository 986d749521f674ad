"""The rules by which step sizes are learned: what AdaptiveStepSize does in each of its modes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from finegrain.checks import checked_positive, finite

# Of the exponent: exp of more is no float32.
LARGEST = 80.0
# How much of the average of past cosines, and of past gradients, a step keeps.
SMOOTHING = 0.9
# Among noise, a step size falls like (t + DELAY)^-ANNEALING.
ANNEALING, DELAY = 0.25, 100.0
TINY = 1e-30

Tensors = Sequence[Any]


class StepSizes(ABC):
    """A rule that gives steps their size, with state of its own.

    Args:
        gain_rate: How fast it learns.
        memory: How much of the past way a step keeps.
        tolerance: How far the gradients may disagree with it.
        drift: Whether the tolerance is added to every cosine.
        max_change: The largest step beside the weights, or `None`.
        first_step: The largest first step beside the weights, or `None`.
        log_max_gain: The log of the largest gain.
    """

    numbers: ClassVar[tuple[str, ...]] = ()
    """The names of its scalars."""
    slots: ClassVar[tuple[str, ...]] = ()
    """The names of its state for each weight, two at most."""

    def __init__(
        self,
        *,
        gain_rate: float,
        memory: float,
        tolerance: float,
        drift: bool,
        max_change: float | None,
        first_step: float | None,
        log_max_gain: float,
    ) -> None:
        self.gain_rate = gain_rate
        self.memory = memory
        self.tolerance = tolerance
        self.drift = drift
        self.max_change = None if drift else max_change
        self.first_step = first_step
        self.log_max_gain = log_max_gain

    @abstractmethod
    def multiplier(self, numbers: Tensors, first: Tensors) -> Any:
        """What the learning rate is multiplied by, all in all."""

    @abstractmethod
    def move(
        self,
        *,
        taken: Any,
        rate: Any,
        gradients: Tensors,
        steps: Tensors,
        weights: Tensors,
        numbers: Tensors,
        first: Tensors,
        second: Tensors,
    ) -> list[Any]:
        """By how much each weight moves.

        Args:
            taken: How many steps were taken before.
            rate: The learning rate.
            gradients: Of each weight.
            steps: Those of the optimizer at learning rate 1.
            weights: As they are.
            numbers: The rule's scalars, which are assigned to.
            first: The rule's state for each weight, likewise.
            second: Its second, if it has two.
        """


class _Gains(StepSizes):
    """One size for each number of each weight: its log is the first slot."""

    def multiplier(self, numbers: Tensors, first: Tensors) -> Any:
        """The geometric mean of all."""
        gains = [gain for gain in first if gain is not None]
        count = sum(math.prod(gain.shape) for gain in gains)
        return ops.exp(sum(ops.sum(self._log(gain)) for gain in gains) / count)

    def _log(self, gain: Any) -> Any:
        return ops.clip(ops.convert_to_tensor(gain), -LARGEST, LARGEST)


class Product(_Gains):
    """By the product of two successive gradients: the article's formula."""

    slots = ("log_gain", "previous_gradient")

    def move(
        self,
        *,
        rate: Any,
        gradients: Tensors,
        steps: Tensors,
        first: Tensors,
        second: Tensors,
        **_: Any,
    ) -> list[Any]:
        """By how much each weight moves."""
        moves = []
        for gradient, step, gain, previous in zip(gradients, steps, first, second, strict=True):
            gain.assign(gain + self.gain_rate * previous * gradient)
            previous.assign(gradient)
            moves.append(rate * ops.exp(self._log(gain)) * step)
        return moves


class Sign(_Gains):
    """By whether the gradient has the sign of the average of past ones; bounded."""

    slots = ("log_gain", "mean_gradient")

    def move(
        self,
        *,
        rate: Any,
        gradients: Tensors,
        steps: Tensors,
        first: Tensors,
        second: Tensors,
        **_: Any,
    ) -> list[Any]:
        """By how much each weight moves."""
        moves = []
        for gradient, step, gain, mean in zip(gradients, steps, first, second, strict=True):
            log = gain + self.gain_rate * ops.sign(mean) * ops.sign(gradient)
            log = ops.clip(log, -self.log_max_gain, self.log_max_gain)
            gain.assign(log)
            mean.assign(SMOOTHING * mean + (1 - SMOOTHING) * gradient)
            moves.append(rate * ops.exp(log) * step)
        return moves


class Scale(StepSizes):
    """One size for all, by the angle between the gradient and the way that the weights came."""

    numbers = ("log_scale", "mean_cosine")
    slots = ("way",)

    def multiplier(self, numbers: Tensors, first: Tensors) -> Any:
        """The scale."""
        return ops.exp(ops.convert_to_tensor(numbers[0]))

    def move(
        self,
        *,
        taken: Any,
        rate: Any,
        gradients: Tensors,
        steps: Tensors,
        weights: Tensors,
        numbers: Tensors,
        first: Tensors,
        **_: Any,
    ) -> list[Any]:
        """By how much each weight moves."""
        log_scale, mean_cosine = numbers
        ways = [ops.convert_to_tensor(way) for way in first]
        cosine = -_dot(gradients, ways) / (_norm(gradients) * _norm(ways) + TINY)
        cosine = ops.where(ops.isfinite(cosine), cosine, 0.0)
        mean = SMOOTHING * mean_cosine + (1 - SMOOTHING) * cosine
        at_first = ops.equal(taken, 0)
        growth = cosine + self.tolerance if self.drift else self._growth(mean, taken)
        log = log_scale + self.gain_rate * ops.where(at_first, 0.0, growth)
        log = self._bounded(log, at_first, rate, steps, weights)
        log_scale.assign(log)
        mean_cosine.assign(mean)
        moves = [rate * ops.cast(ops.exp(log), step.dtype) * step for step in steps]
        # In steps of one size the way turns as soon as they do, however small they have become.
        for way, variable, last in zip(ways, first, moves if self.drift else steps, strict=True):
            variable.assign(self.memory * (way + last))
        return moves

    def _growth(self, cosine: Any, taken: Any) -> Any:
        """Agreement lets steps grow, clear disagreement shrinks them; between they are annealed."""
        annealing = -ANNEALING / (ops.cast(taken, "float32") + DELAY)
        falling = ops.where(
            cosine > -self.tolerance, annealing / max(self.gain_rate, TINY), cosine + self.tolerance
        )
        return ops.where(cosine > 0, cosine, falling)

    def _bounded(self, log: Any, at_first: Any, rate: Any, steps: Tensors, weights: Tensors) -> Any:
        """The first step, and each, bounded by the size of the weights."""
        count = sum(math.prod(weight.shape) for weight in weights)
        # Weights of 0 can move, too.
        size = ops.maximum(_norm(weights), 1e-3 * math.sqrt(count))
        unit = ops.log(size / (rate * _norm(steps) + TINY))
        if self.first_step is not None:
            limit = ops.minimum(log, unit + math.log(self.first_step))
            log = ops.where(at_first, limit, log)
        if self.max_change is not None:
            log = ops.minimum(log, unit + math.log(self.max_change))
        return ops.clip(log, -LARGEST, LARGEST)


MODES: dict[str, type[StepSizes]] = {"scale": Scale, "product": Product, "sign": Sign}


def rule_of(mode: Any, *, estimator: str, **arguments: Any) -> StepSizes:
    """The mode's rule, with its arguments checked."""
    if mode not in MODES:
        raise ValueError(
            f"`mode` should be one of {', '.join(map(repr, MODES))}. Received: mode={mode!r}"
        )
    if estimator not in ("alignment", "drift"):
        raise ValueError(
            f"`estimator` should be 'alignment' or 'drift'. Received: estimator={estimator!r}"
        )
    drift = estimator == "drift"
    default = {
        "gain_rate": (0.1 if drift else 0.2) if mode == "scale" else 0.01,
        "memory": 0.99 if drift else 0.96,
        "tolerance": 0.02 if drift else 0.05,
    }
    given = {name: v for name, v in arguments.items() if v is not None or name not in default}
    values: dict[str, Any] = default | given
    values["gain_rate"] = checked_positive("gain_rate", values["gain_rate"], zero=True)
    for name in ("memory", "tolerance"):
        number = finite(values[name])
        if number is None or not 0 <= number < 1:
            raise ValueError(
                f"`{name}` should be a number in [0, 1). Received: {name}={values[name]!r}"
            )
    for name in ("max_change", "first_step"):
        if values[name] is not None:
            values[name] = checked_positive(name, values[name])
    if checked_positive("max_gain", values["max_gain"]) <= 1:
        raise ValueError(
            f"`max_gain` should be greater than 1. Received: max_gain={values['max_gain']!r}"
        )
    values["log_max_gain"] = math.log(values.pop("max_gain"))
    return MODES[mode](drift=drift, **values)


def _dot(one: Tensors, other: Tensors) -> Any:
    return ops.cast(sum(ops.sum(a * b) for a, b in zip(one, other, strict=True)), "float32")


def _norm(tensors: Tensors) -> Any:
    return ops.sqrt(_dot(tensors, tensors))
