"""A picture of how long second moments remember."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from finegrain._extras import needs
from finegrain.optimizers.averaging import AdamDecay, AdaXDecay, PowerDecay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARTICLE: dict[str, Callable[[Any], Any]] = {
    "Adam, β₂ = 0.999": AdamDecay(0.999),
    "AdaX, β₂ = 0.0001": AdaXDecay(1e-4),
    "AdaFactor, c = 0.8": PowerDecay(0.8),
}


def decay_policies(
    policies: Mapping[str, Callable[[Any], Any]] | None = None, steps: int = 100_000
) -> Figure:
    r"""Draw $\hat\beta_t$ of several decay policies, and beside it the weights $1 - \hat\beta_t$.

    The left panel shows how much of the second moment is kept at step $t$; the conditions
    $\hat\beta_1 = 0$ and $\hat\beta_\infty = 1$ can be read off it. The right panel shows the
    weight $w_t$ of the newest squared gradient, beside a grey line $1/t$: policies that fall
    below it for good have $\sum_t w_t < \infty$ and take in nothing new in the end.

    Args:
        policies: Label → policy; those that the article compares, by default.
        steps: The last step drawn, at least 2.

    Returns:
        The figure, not attached to any window: `figure.savefig("name.png")`.

    Raises:
        ModuleNotFoundError: without matplotlib.
        ValueError: if `steps` is no integer >= 2.

    Example:
    >>> import finegrain as fg
    >>> figure = fg.plots.decay_policies()
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['Adam, β₂ = 0.999', 'AdaX, β₂ = 0.0001', 'AdaFactor, c = 0.8']

    References:
        Su Jianlin, A brief analysis of the AdaX optimizer, 2020, https://kexue.fm/archives/7387
    """
    with needs("matplotlib", "A picture"):
        from matplotlib.figure import Figure

    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ValueError(f"`steps` should be an integer >= 2. Received: steps={steps!r}")
    t = np.unique(np.geomspace(1, steps, 400).round()).astype("float32")
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, policy in (ARTICLE if policies is None else policies).items():
        weight = np.asarray(ops.convert_to_numpy(policy(ops.convert_to_tensor(t))), "float64")
        left.plot(t, 1 - weight, label=label)
        right.plot(t, np.where(weight > 0, weight, np.nan), label=label)
    right.plot(t, 1 / t, color="grey", linestyle=":", label="1 / t")
    left.set(title="kept of the second moment", ylabel="β̂ₜ", ylim=(-0.03, 1.03))
    right.set(title="weight of the newest squared gradient", ylabel="1 − β̂ₜ", yscale="log")
    right.set_ylim(1e-8, 2)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="step t")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
