"""What `PerWeight.describe` returns: how each weight learns, as a table."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class WeightReport:
    """How one weight learns.

    Attributes:
        path: The weight's path, unique within the table.
        shape: Its shape.
        parameters: How many numbers it holds.
        optimizer: Class name of the optimizer that moves it.
        learning_rate_multiplier: Its multiplier now.
        effective_learning_rate: Base learning rate now × multiplier.
        weight_decay: The optimizer's decoupled weight decay.
        gradient: Names of the transforms of its gradient, in order.
        trainable: Whether it is trained.
        rules: Names of the rules that select it, in order.
    """

    path: str
    shape: tuple[int, ...]
    parameters: int
    optimizer: str
    learning_rate_multiplier: float
    effective_learning_rate: float
    weight_decay: float
    gradient: tuple[str, ...]
    trainable: bool
    rules: tuple[str, ...]

    def learns_like(self, other: WeightReport) -> bool:
        """Whether nothing but the weights themselves differs."""
        own, others = asdict(self), asdict(other)
        return all(own[key] == others[key] for key in own.keys() - {"path", "shape", "parameters"})


class Description:
    """A table of weights; neighbours that learn alike and share a layer fold when it is long.

    Args:
        reports: One report a weight, in the model's order.
        fold_above: Number of weights from which on the printed table has a line a group instead
            of a line a weight.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="head")])
    >>> optimizer = fg.PerWeight("adam", [fg.Rule("bias", learning_rate_multiplier=2.0)])
    >>> description = optimizer.describe(model)
    >>> [(row["shape"], row["learning_rate_multiplier"]) for row in description.to_dicts()]
    [((2, 3), 1.0), ((3,), 2.0)]
    """

    def __init__(self, reports: Sequence[WeightReport], *, fold_above: int = 40) -> None:
        self.reports = list(reports)
        self.fold_above = fold_above

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary a weight, with the fields of `WeightReport`; numbers are plain floats."""
        return [asdict(report) for report in self.reports]

    def groups(self) -> list[list[WeightReport]]:
        """The weights that learn alike, together, in order of first appearance."""
        groups: list[list[WeightReport]] = []
        for report in self.reports:
            group = next((group for group in groups if group[0].learns_like(report)), None)
            if group is None:
                groups.append([report])
            else:
                group.append(report)
        return groups

    def _rows(self) -> Iterator[tuple[str, str, WeightReport]]:
        if len(self.reports) <= self.fold_above:
            for report in self.reports:
                shape = "×".join(map(str, report.shape)) or "scalar"
                yield report.path, shape, report
            return
        for group in self.groups():
            first, *rest = group
            label = first.path if not rest else f"{first.path} … {rest[-1].path}"
            yield label, f"{len(group)} weights", first

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("weight", overflow="fold", ratio=3)
        table.add_column("shape", justify="right", no_wrap=True)
        table.add_column("rate ×", justify="right", no_wrap=True)
        table.add_column("rate", justify="right", no_wrap=True)
        table.add_column("decay", justify="right", no_wrap=True)
        table.add_column("rules", overflow="fold", ratio=2)
        for label, shape, report in self._rows():
            table.add_row(
                Text(label),
                shape,
                f"{report.learning_rate_multiplier:g}",
                f"{report.effective_learning_rate:.3g}",
                f"{report.weight_decay:g}" if report.weight_decay else "–",
                Text(", ".join(report.rules) or "–"),
            )
        yield table
        for group in self.groups():
            first = group[0]
            parameters = sum(report.parameters for report in group)
            noun = "weight" if len(group) == 1 else "weights"
            yield (
                f"{len(group)} {noun}, {parameters:,} parameters: {first.optimizer} at "
                f"{first.effective_learning_rate:.3g}"
                f" (× {first.learning_rate_multiplier:g})"
            )

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=80, color_system=None, legacy_windows=False)
        console.print(self)
        return console.file.getvalue()  # type: ignore[attr-defined]

    __repr__ = __str__
