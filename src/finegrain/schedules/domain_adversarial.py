"""DomainAdversarial: the strength of a reversed gradient, from 0 to 1."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain._checks import checked_positive
from finegrain.schedules.parts import LearningRateSchedule, checked_steps


@keras.saving.register_keras_serializable(package="finegrain")
class DomainAdversarial(LearningRateSchedule):
    r"""A rise from 0 to nearly 1 that is steep at first: how strongly to reverse a gradient.

    At step $t$ of $T$, with the steepness $\gamma$, it is

    $$\frac{2}{1 + e^{-\gamma p}} - 1, \qquad p = \min(1, t / T).$$

    Args:
        steps: An integer ≥ 1: the number of steps $T$. From then on it stays as it is.
        steepness: A finite number > 0: $\gamma$.

    Raises:
        TypeError: if `steps` is no integer.
        ValueError: if a number is out of range.

    Example:
    >>> import finegrain as fg
    >>> schedule = fg.schedules.DomainAdversarial(100)
    >>> [round(float(schedule(step)), 4) for step in (0, 10, 50, 100, 200)]
    [0.0, 0.4621, 0.9866, 0.9999, 0.9999]
    >>> layer = fg.layers.ReverseGradient(schedule)

    References:
        Yaroslav Ganin et al., Domain-adversarial training of neural networks, 2016,
        https://arxiv.org/abs/1505.07818
    """

    def __init__(self, steps: int, steepness: float = 10.0) -> None:
        super().__init__()
        self.steps = checked_steps("steps", steps)
        self.steepness = checked_positive("steepness", steepness)

    def __call__(self, step: Any) -> Any:
        """Return the factor at a step, a float32 scalar."""
        # Integers stay such until here: float32 knows steps up to 2^24 only.
        taken = ops.minimum(ops.convert_to_tensor(step), self.steps)
        share = ops.cast(taken, "float32") / self.steps
        # 2 / (1 + exp(-x)) - 1 = tanh(x / 2), which is exact about 0.
        return ops.tanh(share * (self.steepness / 2))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {"steps": self.steps, "steepness": self.steepness}

    def __repr__(self) -> str:
        steepness = "" if self.steepness == 10.0 else f", steepness={self.steepness}"
        return f"DomainAdversarial({self.steps}{steepness})"
