"""The picture of a range test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finegrain._extras import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finegrain.range_test.result import RangeTest


def losses_over_rates(test: RangeTest) -> Figure:
    """Draw the losses over the rates, and mark the suggestion."""
    with needs("matplotlib", "A picture"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(test.rates, test.losses, ".", color="grey", alpha=0.5, label="loss of the batch")
    axes.plot(test.rates, test.smoothed, color="tab:blue", label="smoothed")
    whose = "" if test.rule is None else f" of the rule {test.rule!r}"
    title = "no suggestion: the loss never fell"
    if test.suggestion is not None:
        title = f"suggestion: {test.suggestion:.2g}"
        axes.axvline(test.suggestion, color="tab:red", linestyle="--", label=title)
        lowest = int(np.nanargmin(test.smoothed))
        axes.plot(test.rates[lowest], test.smoothed[lowest], "o", color="tab:blue", label="lowest")
    axes.set(xscale="log", xlabel=f"learning rate{whose}", ylabel="loss", title=title)
    axes.set_ylim(*_limits(test))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _limits(test: RangeTest) -> tuple[float, float]:
    """Return limits that show the valley, whatever the loss climbs to when training diverges."""
    finite = test.smoothed[np.isfinite(test.smoothed)]
    low, first = float(finite.min()), float(finite[0])
    range_of_interest = max(first - low, 1e-3 * abs(first), 1e-12)
    high = min(first + range_of_interest, max(first, float(finite.max())) + 0.1 * range_of_interest)
    return low - 0.3 * range_of_interest, high + 0.2 * range_of_interest
