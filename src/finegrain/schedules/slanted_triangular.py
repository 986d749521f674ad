"""SlantedTriangular: the learning rates of ULMFiT."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain._checks import finite
from finegrain.schedules.parts import LearningRateSchedule, checked_share, checked_steps


@keras.saving.register_keras_serializable(package="finegrain")
class SlantedTriangular(LearningRateSchedule):
    r"""A short rise and a long fall, both linear.

    At step $t$ of $T$, with the share $c$ of steps that rise, $k = \lfloor cT \rfloor$, and the
    ratio $r$ of the highest value to the lowest, it is

    $$\frac{1 + p\,(r - 1)}{r}, \qquad p = \begin{cases} t / k & t < k \\
    \max(0, 1 - (t - k) / (T - k)) & t \ge k. \end{cases}$$

    Args:
        total: An integer ≥ 1: the number of steps $T$. From then on it stays at $1 / r$.
        cut: A number between 0 and 1: the share $c$. With 0 it only falls, with 1 it only rises
            and drops at step $T$.
        ratio: A finite number ≥ 1: how many times the lowest value the highest one, 1, is.

    Raises:
        TypeError: if an argument is of a wrong type.
        ValueError: if a number is out of range.

    Example:
    >>> import keras, finegrain as fg
    >>> schedule = fg.schedules.SlantedTriangular(10, cut=0.2, ratio=4)
    >>> [float(schedule(step)) for step in (0, 1, 2, 6, 10, 11)]
    [0.25, 0.625, 1.0, 0.625, 0.25, 0.25]
    >>> optimizer = fg.PerWeight(keras.optimizers.Adam(1e-3), [
    ...     fg.Rule(".", learning_rate_multiplier=schedule)])

    References:
        Jeremy Howard and Sebastian Ruder, Universal Language Model Fine-tuning for Text
        Classification, 2018, https://arxiv.org/abs/1801.06146

    Notes:
        The article divides the fall by $k (1 / c - 1)$, which is $T - k$ where $cT$ is a whole
        number. With $T - k$ the fall ends at step $T$ always.
    """

    def __init__(self, total: int, cut: float = 0.1, ratio: float = 32.0) -> None:
        super().__init__()
        self.total = checked_steps("total", total)
        self.cut = checked_share("cut", cut)
        number = finite(ratio)
        if number is None or number < 1:
            kind = TypeError if isinstance(ratio, str) or ratio is None else ValueError
            raise kind(f"`ratio` should be a finite number >= 1. Received: ratio={ratio!r}")
        self.ratio = number

    def __call__(self, step: Any) -> Any:
        """Return the multiplier at a step, a float32 scalar."""
        step = ops.convert_to_tensor(step)
        # The rounding of `0.1 * 30`, say, should not take a step away.
        peak = int(self.cut * self.total + 1e-9)
        # Integers stay such until here: float32 knows steps up to 2^24 only.
        rise = ops.cast(ops.minimum(step, peak), "float32") / max(peak, 1)
        left = ops.cast(ops.maximum(self.total - step, 0), "float32")
        fall = left / max(self.total - peak, 1)
        share = ops.where(step < peak, rise, fall)
        return (1.0 + share * (self.ratio - 1.0)) / self.ratio

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {"total": self.total, "cut": self.cut, "ratio": self.ratio}

    def __repr__(self) -> str:
        return f"SlantedTriangular({self.total}, cut={self.cut}, ratio={self.ratio})"
