"""Pictures of what was learned. Needs matplotlib: `pip install 'finegrain[plots]'`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure


def matrices(
    tables: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """Heat maps of several matrices side by side, on one colour scale, each cell with its number.

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
