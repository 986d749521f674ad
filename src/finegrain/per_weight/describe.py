"""How each weight learns: in numbers for programs, and as a table for people."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from finegrain.per_weight.reports import WeightReport
from finegrain.per_weight.table import printed


class Description:
    """A table of weights; when it is long, those that learn alike fold into one line.

    It fits the width of the terminal from 60 columns on; 80 columns where that is not known.

    Args:
        reports: One report a weight, in the model's order.
        fold_above: How many lines may be printed between the table's header and its last line; a
            table that would be longer has a line a group instead of a line a weight. If it still
            takes half as many, groups that differ by a number in their names, such as those of
            numbered layers, become one.
        notes: Lines to print under the table.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="head")])
    >>> optimizer = fg.PerWeight("adam", [fg.Rule("bias", learning_rate_multiplier=2.0)])
    >>> description = optimizer.describe(model)
    >>> [(row["shape"], row["learning_rate_multiplier"]) for row in description.to_dicts()]
    [((2, 3), 1.0), ((3,), 2.0)]
    """

    def __init__(
        self, reports: Sequence[WeightReport], *, fold_above: int = 40, notes: Sequence[str] = ()
    ) -> None:
        self.reports = list(reports)
        self.fold_above = fold_above
        self.notes = list(notes)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a dict per weight: the fields of `WeightReport`, with numbers as plain floats."""
        return [asdict(report) for report in self.reports]

    def groups(self) -> list[list[WeightReport]]:
        """Group the weights that learn alike, in order of first appearance."""
        groups: dict[tuple[Any, ...], list[WeightReport]] = {}
        for report in self.reports:
            groups.setdefault(report.manner, []).append(report)
        return list(groups.values())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from printed(
            self.reports, self.groups(), self.notes, self.fold_above, console, options
        )

    def __str__(self) -> str:
        # Numbers would be cut off in a narrower one.
        width = max(shutil.get_terminal_size(fallback=(80, 24)).columns, 60)
        console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
        console.print(self)
        return console.file.getvalue()  # type: ignore[attr-defined]

    __repr__ = __str__
