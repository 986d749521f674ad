"""What a range test turns: the base rate, or the rate of one rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from finegrain._backend import backend
from finegrain.optimizers.adaptive_step_size import AdaptiveStepSize
from finegrain.per_weight.optimizer import PerWeight


class Dial(ABC):
    """Sets the learning rate that a test varies."""

    @abstractmethod
    def turn(self, rate: float) -> None:
        """Set the rate for the next step."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Make the dial ready in this context, and put back what no variable holds."""
        yield


class BaseRate(Dial):
    """The learning rate of an optimizer that keeps it in a variable."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self._optimizer = optimizer

    def turn(self, rate: float) -> None:
        """Set the learning rate."""
        self._optimizer.learning_rate = rate


class Exchanged(BaseRate):
    """The learning rate of an optimizer that has a schedule, for which a variable stands in.

    A schedule is part of the compiled step, which is therefore compiled anew for the test; the step
    that was compiled for the schedule is set aside.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(inner_optimizer(model.optimizer))
        self._model = model

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Exchange the schedule, and the compiled step with it."""
        model, optimizer = self._model, self._optimizer
        schedule, step = optimizer._learning_rate, model.train_function
        with backend.scope_of(model.trainable_variables):
            # One more variable of the step, without which JAX would take the one it knows.
            optimizer._learning_rate = keras.Variable(
                0.0, trainable=False, aggregation="only_first_replica", name="learning_rate"
            )
        model.train_function = None
        try:
            yield
        finally:
            optimizer.learning_rate = schedule  # by which Keras lets go of the variable
            model.train_function = step


class RuleRate(Dial):
    """The learning rate of one rule, by `PerWeight.set`.

    Raises:
        ValueError: if the rule has no rate that can be set, or if it holds its weights.
    """

    def __init__(self, optimizer: PerWeight, rule: str) -> None:
        self._optimizer = optimizer
        self._rule = rule
        says = optimizer.get(rule)
        self.property = "learning_rate" if "learning_rate" in says else "learning_rate_multiplier"
        self._weight, self._unit = self._probed()
        self._value = 1.0

    def _probed(self) -> tuple[int, float]:
        """Return the index of a weight that the rule decides for, and its rate at a value of 1.

        The rate of a weight is the value of the property times what other rules and the base rate
        say, so that two values tell which weights are the rule's.
        """
        rates = []
        for value in (2.0, 1.0):
            self._set(value)
            rates.append(self._optimizer.effective_learning_rates())
        decided = [i for i, (two, one) in enumerate(zip(*rates, strict=True)) if two > one > 0]
        if not decided:
            raise ValueError(
                f"The rule {self._rule!r} moves no weight now: it holds its weights, or the base "
                "rate is 0. Release them for the test: "
                f"optimizer.set({self._rule!r}, trainable=True). "
                f"Received: rule={self._rule!r}, which says {self._optimizer.get(self._rule)}"
            )
        return decided[0], rates[1][decided[0]]

    def turn(self, rate: float) -> None:
        """Set the property so that the weights learn at `rate`."""
        # The base rate may be a schedule, so that the rate at this step is asked for.
        now = self._optimizer.effective_learning_rates()[self._weight]
        self._value *= rate / now
        self._set(self._value)

    def _set(self, value: float) -> None:
        given: dict[str, Any] = {self.property: value}
        self._optimizer.set(self._rule, **given)

    def multiplier_for(self, rate: float | None) -> float | None:
        """Return the multiplier that made the rate `rate` before the test, if the rule has one."""
        if rate is None or self.property == "learning_rate":
            return None
        return rate / self._unit


def dial_of(model: Any, rule: str | None) -> Dial:
    """Choose what the test turns.

    Args:
        model: A compiled model of which the optimizer is built.
        rule: The rule whose rate to vary, or `None` for the base rate.

    Raises:
        TypeError: if a rule is given for an optimizer without rules.
        ValueError: if the optimizer learns its rate, or the rule has none that can be set.
    """
    optimizer = inner_optimizer(model.optimizer)
    learned = optimizer
    if isinstance(optimizer, PerWeight):
        learned = optimizer._book.template.optimizer
    if isinstance(learned, AdaptiveStepSize) and rule is None:
        raise ValueError(
            "AdaptiveStepSize learns its rate, whatever it begins with, so that a test of rates "
            "would tell nothing: train with it as it is, or compile the model with the optimizer "
            f"that it wraps. Received: model.optimizer={model.optimizer!r}"
        )
    if rule is not None:
        if not isinstance(optimizer, PerWeight):
            raise TypeError(
                "A test of one rule's rate needs a model that is compiled with `PerWeight`. "
                f"Received: rule={rule!r}, model.optimizer={model.optimizer!r}"
            )
        return RuleRate(optimizer, rule)
    if isinstance(optimizer._learning_rate, keras.Variable):
        return BaseRate(optimizer)
    return Exchanged(model)


def inner_optimizer(optimizer: Any) -> Any:
    """Return what a `LossScaleOptimizer` wraps."""
    return getattr(optimizer, "inner_optimizer", optimizer)
