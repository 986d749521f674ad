"""Pictures of what was learned. Needs matplotlib: `pip install matplotlib`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finegrain._extras import needs

with needs("matplotlib", "A picture"):
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure


def matrices(
    tables: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """Draw heat maps of several matrices side by side, on one colour scale, a number in each cell.

    Args:
        tables: Title of each → (rows, columns) numbers; −inf is shown as such.
        rows: A label for each row.
        columns: A label for each column.
        title: Above all of them.

    Returns:
        The figure, not attached to any window: `figure.savefig("name.png")`.

    Example:
    >>> import numpy as np
    >>> from finegrain.monitoring.plots import matrices
    >>> figure = matrices({"learned": np.eye(2)}, ["a", "b"], ["a", "b"])
    >>> [axes.get_title() for axes in figure.axes]
    ['learned', '']
    """
    figure = Figure(figsize=(1.2 + 3.1 * len(tables), 3.9), layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False)[0]
    finite = [np.abs(table[np.isfinite(table)]).max(initial=1e-6) for table in tables.values()]
    limit = float(max(finite))
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        axis.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(name)
        axis.set_xticks(range(len(columns)), columns)
        axis.set_yticks(range(len(rows)), rows)
        axis.set_xlabel("to")
        for (row, column), value in np.ndenumerate(table):
            text = f"{value:.2f}" if np.isfinite(value) else "−∞"
            dark = np.isfinite(value) and abs(value) > 0.6 * limit
            color = "white" if dark else "black"
            axis.text(column, row, text, ha="center", va="center", color=color)
    axes[0].set_ylabel("from")
    figure.suptitle(title)
    figure.colorbar(axes[0].images[0], ax=list(axes), shrink=0.8)
    return figure


_BELOW: dict[str, Any] = {"loc": "outside lower center", "ncols": 5}


def watched(
    steps: Sequence[int],
    paths: Sequence[str],
    heat: tuple[str, np.ndarray],
    lines: Mapping[str, Mapping[str, np.ndarray]],
    skipped: Sequence[int] = (),
) -> Figure:
    """Draw what `Watch` recorded: a heat map of weights × steps beside lines per rule.

    Args:
        steps: The recorded steps.
        paths: A label for each weight.
        heat: (quantity, array (records, weights)), drawn on a logarithmic colour scale; what is 0
            or not finite stays white.
        lines: Quantity → rule → array (records,), drawn on a logarithmic scale, a panel each.
        skipped: How many steps were dropped until each record; drawn if any was.

    Returns:
        The figure, not attached to any window: `figure.savefig("name.png")`.

    Example:
    >>> import numpy as np
    >>> from finegrain.monitoring.plots import watched
    >>> norms = np.array([[1.0, 0.1], [0.5, 0.2]])
    >>> figure = watched([0, 50], ["a", "b"], ("norm", norms), {"norm": {"all": norms.sum(1)}})
    >>> [axes.get_title() for axes in figure.axes]
    ['norm of each weight', 'norm', '']
    """
    panels = len(lines) + (1 if any(skipped) else 0)
    height = max(3.0, min(0.16 * len(paths) + 1.5, 16.0), 1.7 * panels)
    figure = Figure(figsize=(13.0, height), layout="constrained")
    grid = figure.add_gridspec(max(panels, 1), 2, width_ratios=[1.3, 1.0])
    quantity, table = heat
    axis = figure.add_subplot(grid[:, 0])
    shown = np.where(np.isfinite(table) & (table > 0), table, np.nan).T
    norm = LogNorm() if np.isfinite(shown).any() else None
    image = axis.imshow(shown, aspect="auto", cmap="viridis", norm=norm, interpolation="nearest")
    axis.set_title(f"{quantity.replace('_', ' ')} of each weight")
    # As many names as there is room for.
    stride = max(1, round(len(paths) / (height * 6)))
    axis.set_yticks(range(0, len(paths), stride), [_shortened(p) for p in paths[::stride]])
    axis.tick_params(axis="y", labelsize=7)
    places = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 6)).astype(int))
    axis.set_xticks(places, [str(steps[place]) for place in places])
    axis.set_xlabel("step")
    for row, (name, curves) in enumerate(lines.items()):
        panel = figure.add_subplot(grid[row, 1])
        panel.set_title(name.replace("_", " "), fontsize=9)
        for rule, values in curves.items():
            positive = np.where(np.asarray(values) > 0, values, np.nan)
            panel.plot(steps, positive, label=_shortened(rule), linewidth=1.2, marker=".")
        if any(np.isfinite(v).any() and np.max(v) > 0 for v in curves.values()):
            panel.set_yscale("log")
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
        if row == 0:
            figure.legend(*panel.get_legend_handles_labels(), fontsize=7, **_BELOW)
    if any(skipped):
        panel = figure.add_subplot(grid[panels - 1, 1])
        panel.step(steps, skipped, where="post", color="firebrick")
        panel.set_title("skipped steps", fontsize=9)
        panel.tick_params(labelsize=7)
    figure.colorbar(image, ax=axis, shrink=0.8)
    return figure


def _shortened(label: str, width: int = 40) -> str:
    return label if len(label) <= width else f"…{label[1 - width :]}"
