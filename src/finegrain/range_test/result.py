"""What a range test found, and the rate that it suggests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# By how much the suggestion is below the rate of the lowest loss; see docs/benchmarks.
DIVISOR = 3.0


@dataclass(frozen=True, eq=False, repr=False)
class RangeTest:
    """The losses of a range test, as `find_learning_rate` returns them.

    Attributes:
        suggestion: A third of the learning rate at which the smoothed loss was lowest; `None` if
            the loss never fell by more than batches differ.
        rates: The learning rates, float64 of shape (steps,), ascending.
        losses: The loss of the batch at each rate, before the step was taken: float64 of shape
            (steps,), the last of them perhaps not finite.
        smoothed: The losses, smoothed over neighbouring rates: float64 of shape (steps,).
        rule: The rule of `PerWeight` whose rate was varied, if it was one.
        multiplier: The multiplier by which that rule has the suggested rate at the present base
            rate, if the rule has a multiplier; else `None`.
    """

    suggestion: float | None
    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    rule: str | None = None
    multiplier: float | None = None

    def __repr__(self) -> str:
        found = "None" if self.suggestion is None else f"{self.suggestion:.3g}"
        parts = [f"suggestion={found}"]
        if self.rule is not None:
            parts.append(f"rule={self.rule!r}")
        if self.multiplier is not None:
            parts.append(f"multiplier={self.multiplier:.3g}")
        between = f"{self.rates[0]:.3g}..{self.rates[-1]:.3g}"
        return f"RangeTest({', '.join(parts)}, {len(self.rates)} rates {between})"

    def plot(self) -> Figure:
        """Draw the losses over the rates, and mark the suggestion.

        Needs matplotlib: `pip install matplotlib`.

        Returns:
            The figure, not attached to any window: `figure.savefig("name.png")`.

        Raises:
            ModuleNotFoundError: without matplotlib.
        """
        from finegrain.range_test.picture import losses_over_rates

        return losses_over_rates(self)


def smoothed(rates: np.ndarray, losses: np.ndarray, width: float, limit: float) -> np.ndarray:
    r"""Average each loss with those of neighbouring rates.

    $$\tilde L_i = \sum_j k_{ij} L_j \Big/ \sum_j k_{ij}, \qquad
      k_{ij} = \exp\Big(-\frac{(\lg r_i - \lg r_j)^2}{2 w^2}\Big).$$

    Args:
        rates: Shape (steps,), > 0.
        losses: Shape (steps,).
        width: $w$, in decades; 0 for no smoothing.
        limit: What stands for all losses above it and for those that are not finite, so that the
            last ones, often larger by powers of ten, do not hide the valley.

    Returns:
        Shape (steps,).

    Example:
    >>> import numpy as np
    >>> from finegrain.range_test.result import smoothed
    >>> print(smoothed(np.array([0.1, 0.2]), np.array([1.0, np.inf]), 1e6, limit=3.0))
    [2. 2.]
    """
    limited = np.where(np.isfinite(losses), np.minimum(losses, limit), limit)
    return _kernel(rates, width) @ limited


def limit(losses: Sequence[float] | np.ndarray, divergence: float) -> float:
    """Return the height above which an average of the losses counts as divergence.

    Args:
        losses: At least one, the first of them finite.
        divergence: How far above the lowest average that is, in units of what the loss fell by or,
            if it is larger, of the first loss.
    """
    averages = _running(losses)[FIRST - 1 :]
    averages = averages[np.isfinite(averages)]
    first = np.mean([loss for loss in losses[:FIRST] if np.isfinite(loss)])
    lowest = averages.min(initial=first)
    return float(lowest + divergence * max(first - lowest, abs(first)))


def has_diverged(losses: Sequence[float], divergence: float) -> bool:
    """Return whether the last loss is not finite, or the average of the last ones too high."""
    if not np.isfinite(losses[-1]):
        return True
    enough = len(losses) > 2 * FIRST
    return enough and bool(_running(losses)[-1] > limit(losses, divergence))


# How many losses make up the level from which the loss falls, where divergence is concerned.
FIRST = 10
# How much an average of the last losses keeps of the one before.
_KEPT = 0.9


def _running(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the exponential averages of the losses until each of them, without bias."""
    averages, average, weight = [], 0.0, 0.0
    for loss in losses:
        average = _KEPT * average + (1 - _KEPT) * loss
        weight = _KEPT * weight + 1 - _KEPT
        averages.append(average / weight)
    return np.array(averages)


def has_fallen(rates: np.ndarray, losses: np.ndarray, curve: np.ndarray, width: float) -> bool:
    """Return whether the smoothed loss falls by more than the batches differ among themselves.

    It has to fall below its level in the first quarter of the steps, where the rates are too small
    to matter, by two and a half standard errors, which noise alone reaches in a test of twenty.

    Args:
        rates: Shape (steps,).
        losses: Shape (steps,), the first of them finite.
        curve: The smoothed losses, of shape (steps,).
        width: The width by which they were smoothed.
    """
    first = losses[: max(len(losses) // 4, 2)]
    first = first[np.isfinite(first)]
    place = int(np.argmin(curve))
    shares = _kernel(rates, width)[place]
    error = first.std() * float(np.sqrt(np.square(shares).sum() + 1 / len(first)))
    rounding = 1e-6 * abs(first.mean())
    return bool(first.mean() - curve[place] > max(2.5 * error, rounding))


def _kernel(rates: np.ndarray, width: float) -> np.ndarray:
    """Return the share of each loss in each average, of shape (steps, steps)."""
    if width == 0:
        return np.eye(len(rates))
    places = np.log10(rates)
    kernel = np.exp(-0.5 * np.square((places[:, None] - places[None]) / width))
    return kernel / kernel.sum(1, keepdims=True)
