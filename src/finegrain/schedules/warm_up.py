"""WarmUp and Delayed: schedules that begin low, or later."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain.schedules.parts import (
    LearningRateSchedule,
    Part,
    checked_part,
    checked_share,
    checked_steps,
    restored,
    serialized,
    value_of,
)


@keras.saving.register_keras_serializable(package="finegrain")
class WarmUp(LearningRateSchedule):
    r"""A linear rise over the first steps, then 1, or another schedule.

    At step $t$, counted from 0, with $n$ steps, the start $s$ and the schedule $f$ to follow, it is

    $$\left(s + (1 - s) \min\left(1, \frac{t}{n}\right)\right) f(\max(0, t - n)).$$

    Args:
        steps: An integer ≥ 1: the step $n$ at which the rise is over.
        start: A number between 0 and 1: where it begins. As a multiplier of 0 holds weights, with
            0 their first step is step 1.
        then: A Keras `LearningRateSchedule`, or a number ≥ 0: what follows, counted from the end
            of the rise, and what the rise leads to.

    Raises:
        TypeError: if an argument is of a wrong type.
        ValueError: if a number is out of range.

    Example:
    >>> import keras, finegrain as fg
    >>> rule = fg.Rule("head", learning_rate_multiplier=fg.schedules.WarmUp(4))
    >>> [float(rule.learning_rate_multiplier(step)) for step in (0, 1, 2, 4, 9)]
    [0.0, 0.25, 0.5, 1.0, 1.0]
    >>> cosine = keras.optimizers.schedules.CosineDecay(1.0, decay_steps=4)
    >>> schedule = fg.schedules.WarmUp(2, start=0.5, then=cosine)
    >>> [round(float(schedule(step)), 2) for step in range(7)]
    [0.5, 0.75, 1.0, 0.85, 0.5, 0.15, 0.0]

    References:
        Priya Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017,
        https://arxiv.org/abs/1706.02677
    """

    def __init__(self, steps: int, start: float = 0.0, then: Part = 1.0) -> None:
        super().__init__()
        self.steps = checked_steps("steps", steps)
        self.start = checked_share("start", start)
        self.then = checked_part("then", then)

    def __call__(self, step: Any) -> Any:
        """Return the multiplier at a step, a float32 scalar."""
        step = ops.convert_to_tensor(step)
        # Integers stay such until here: float32 knows steps up to 2^24 only.
        taken = ops.cast(ops.minimum(step, self.steps), "float32") / self.steps
        after = ops.maximum(step - self.steps, 0)
        return (self.start + (1.0 - self.start) * taken) * value_of(self.then, after)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {"steps": self.steps, "start": self.start, "then": serialized(self.then)}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> WarmUp:
        """Make the schedule that `get_config` describes."""
        return cls(**config | {"then": restored(config["then"], custom_objects)})

    def __repr__(self) -> str:
        start = f", start={self.start}" if self.start else ""
        return f"WarmUp({self.steps}{start}{'' if self.then == 1.0 else f', then={self.then!r}'})"


@keras.saving.register_keras_serializable(package="finegrain")
class Delayed(LearningRateSchedule):
    r"""A schedule that begins later: 0 until then, so that a rule holds its weights.

    At step $t$, with the delay $d$ and the schedule $f$, it is 0 for $t < d$, then $f(t - d)$.

    Args:
        step: An integer ≥ 0: the step $d$ at which `schedule` begins.
        schedule: A Keras `LearningRateSchedule`, or a number ≥ 0.

    Raises:
        TypeError: if an argument is of a wrong type.
        ValueError: if a number is out of range.

    Example:
    >>> import finegrain as fg
    >>> schedule = fg.schedules.Delayed(3, fg.schedules.WarmUp(2))
    >>> [float(schedule(step)) for step in range(7)]
    [0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0]
    >>> fg.Rule("encoder", learning_rate_multiplier=schedule)
    Rule('encoder', learning_rate_multiplier=Delayed(3, WarmUp(2)))

    Notes:
        As a rule's `learning_rate_multiplier` it takes the place of what earlier rules say of the
        rate. To release weights at the rates of other rules, by epoch or by step, use the callback
        `finegrain.callbacks.Unfreeze`.
    """

    def __init__(self, step: int, schedule: Part = 1.0) -> None:
        super().__init__()
        self.step = checked_steps("step", step, least=0)
        self.schedule = checked_part("schedule", schedule)

    def __call__(self, step: Any) -> Any:
        """Return the multiplier at a step, a float32 scalar."""
        step = ops.convert_to_tensor(step)
        value = value_of(self.schedule, ops.maximum(step - self.step, 0))
        return ops.where(step < self.step, 0.0, value)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {"step": self.step, "schedule": serialized(self.schedule)}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Delayed:
        """Make the schedule that `get_config` describes."""
        return cls(**config | {"schedule": restored(config["schedule"], custom_objects)})

    def __repr__(self) -> str:
        shown = "" if self.schedule == 1.0 else f", {self.schedule!r}"
        return f"Delayed({self.step}{shown})"
