"""How each weight learns: in numbers for programs, and as a table for people."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import keras
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from finegrain._backend import backend
from finegrain.per_weight.partition import Selected
from finegrain.per_weight.places import places
from finegrain.per_weight.rulebook import LiveRule, Rulebook
from finegrain.rules.rule import Outcome

# Plain text does not wrap lines; a rich console has a width.
WIDEST = 10_000
NARROWEST = 16


@dataclass(frozen=True)
class WeightReport:
    """How one weight learns.

    Attributes:
        path: The weight's path, unique within the table.
        shape: Its shape.
        parameters: How many numbers it holds.
        optimizer: Class name of the optimizer that moves it.
        learning_rate_multiplier: What its rate is multiplied by now; 0 where a rule holds it.
        effective_learning_rate: The rate that it learns at now: that of its rule, of its rule's
            optimizer, or the base rate, × multiplier.
        weight_decay: The optimizer's decoupled weight decay.
        gradient: The transforms of its gradient, in order, with their arguments.
        trainable: Whether it moves now; not if a rule holds it.
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
        """Return whether the reports differ at most in the weights' paths, shapes and sizes."""
        own, others = asdict(self), asdict(other)
        return all(own[key] == others[key] for key in own.keys() - {"path", "shape", "parameters"})


class Description:
    """A table of weights; when it is long, those that learn alike fold into one line.

    Args:
        reports: One report a weight, in the model's order.
        fold_above: Number of weights from which on the printed table has a line a group instead
            of a line a weight.
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
        groups: list[list[WeightReport]] = []
        for report in self.reports:
            group = next((group for group in groups if group[0].learns_like(report)), None)
            if group is None:
                groups.append([report])
            else:
                group.append(report)
        return groups

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        folded = len(self.reports) > self.fold_above
        groups = self.groups() if folded else [[report] for report in self.reports]
        kinds = Counter(report.optimizer for report in self.reports)
        usual = max(kinds, key=lambda kind: kinds[kind], default="–")
        gradients = list(dict.fromkeys(r.gradient for r in self.reports if r.gradient))
        names = list(dict.fromkeys(name for report in self.reports for name in report.rules))
        inline = all(len(", ".join(report.rules)) <= 24 for report in self.reports)
        rows: list[list[Any]] = []
        for group in groups:
            first = group[0]
            shape = "×".join(map(str, first.shape)) or "scalar"
            row: list[Any] = [
                _together([report.path for report in group]),
                f"{sum(report.parameters for report in group):,}" if folded else shape,
                f"{first.learning_rate_multiplier:.3g}",
                f"{first.effective_learning_rate:.3g}" if first.trainable else "held",
                f"{first.weight_decay:.3g}" if first.weight_decay else "–",
            ]
            if first.optimizer != usual:
                row[3] = f"{row[3]} {first.optimizer}"
            if gradients:
                place = gradients.index(first.gradient) if first.gradient else None
                row.append("–" if place is None else str(1 + place))
            shown = first.rules if inline else [str(1 + names.index(n)) for n in first.rules]
            row.append(Text(", ".join(dict.fromkeys(shown)) or "–"))
            rows.append(row)
        table = self._table(rows, folded, bool(gradients), console, options)
        yield table
        if not inline:
            # Each long name once.
            yield from (Text(f"rule {i}: {_short(name)}") for i, name in enumerate(names, 1))
        # Each one once, with all its arguments.
        yield from (
            Text(f"gradient {i}: {', '.join(gradient)}") for i, gradient in enumerate(gradients, 1)
        )
        if gradients or not inline:
            yield ""
        if not folded:
            yield from map(_total, self.groups())
        parameters = sum(report.parameters for report in self.reports)
        held = [report for report in self.reports if not report.trainable]
        yield (
            f"{_weights(len(self.reports))}, {parameters:,} parameters in all, "
            f"{len(held)} held; {usual} where no other is named"
        )
        yield from map(Text, self.notes)

    def _table(
        self,
        rows: Sequence[Sequence[Any]],
        folded: bool,
        gradients: bool,
        console: Console,
        options: ConsoleOptions,
    ) -> Table:
        """Make a table of `rows`; where room is short, break its first column between names."""
        longest = max((len(row[0]) for row in rows), default=0)

        def table(room: int, narrow: bool = False) -> Table:
            made = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
            made.add_column("weights" if folded else "weight", no_wrap=True)
            made.add_column("params" if folded else "shape", justify="right", no_wrap=True)
            made.add_column("rate ×", justify="right", no_wrap=True)
            made.add_column("rate", justify="right", no_wrap=True)
            made.add_column("decay", justify="right", no_wrap=True)
            if gradients:
                made.add_column("gradient", justify="center", no_wrap=True)
            made.add_column("rules", overflow="fold")
            for row in rows:
                rules = Text("\n".join(row[-1].plain.split())) if narrow else row[-1]
                made.add_row(Text(_broken(row[0], room)), *row[1:-1], rules)
            return made

        # The width that the others leave at their narrowest: rules wrap first, between names.
        wide = options.update(width=WIDEST)
        others = Measurement.get(console, wide, table(WIDEST, narrow=True))
        return table(max(options.max_width - (others.maximum - longest), NARROWEST))

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDEST, color_system=None, legacy_windows=False)
        console.print(self)
        return console.file.getvalue()  # type: ignore[attr-defined]

    __repr__ = __str__


def _weights(count: int) -> str:
    return f"{count} weight" if count == 1 else f"{count} weights"


def _total(group: Sequence[WeightReport]) -> str:
    first = group[0]
    rate = f"at {first.effective_learning_rate:.3g}" if first.trainable else "held"
    return (
        f"{_weights(len(group))}, {sum(report.parameters for report in group):,} parameters: "
        f"{first.optimizer} {rate} (× {first.learning_rate_multiplier:.3g})"
    )


def _together(paths: Sequence[str]) -> str:
    """Abbreviate the paths to what they have in common, or to the first and last layer."""
    if len(paths) == 1:
        return paths[0]
    parts = [path.split("/") for path in paths]
    leading = list(takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False)))
    count = f"×{len(paths)}"
    if leading:
        return f"{'/'.join(level[0] for level in leading)}/… {count}"
    if len({part[-1] for part in parts}) == 1:
        return f"…/{parts[0][-1]} {count}"
    first, last = parts[0][0], parts[-1][0]
    return f"{first} … {last} {count}"


def _broken(path: str, room: int) -> str:
    """Break the path into lines of at most `room` characters; break only longer names."""
    if len(path) <= room:
        return path
    lines = [""]
    for name in re.findall("[^/]*/|[^/]+", path):
        indent = "  " if 2 + len(name) <= room else ""
        parts = [name[start : start + room] for start in range(0, len(name), room)]
        if len(lines[-1]) + len(name) <= room:
            lines[-1] += name
        else:
            lines += [indent + part for part in parts]
    return "\n".join(line for line in lines if line)


def _short(name: str, width: int = 70) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def reports(
    book: Rulebook,
    weights: Sequence[keras.Variable],
    selection: Sequence[Selected],
    base: float,
    learned: Mapping[Any, float],
) -> list[WeightReport]:
    """Report how each weight learns, one report per weight in the given order.

    Args:
        book: The optimizer's rules at work.
        weights: The weights.
        selection: What the rules make of each of them.
        base: The base learning rate.
        learned: By group, what its optimizer multiplies its learning rate by.
    """
    result = []
    seen: dict[Any, tuple[float, float, bool]] = {}
    for (path, _), weight, selected in zip(places(weights), weights, selection, strict=True):
        outcome = book.outcome(selected.rules)
        if outcome.group not in seen:
            seen[outcome.group] = rates(book, outcome, base)
        multiplier, rate, moves = seen[outcome.group]
        template = book.template_of(outcome)
        decay = outcome.weight_decay
        if outcome.decay is not None:
            decay = book.rules[outcome.decay].numbers["weight_decay"].current()
        if decay is None:
            decay = template.weight_decay(weight) if selected.decays else 0.0
        transforms = [t for index in selected.rules for t in book.rules[index].rule.gradient]
        result.append(
            WeightReport(
                path=path,
                shape=tuple(weight.shape),
                parameters=int(np.prod(weight.shape, dtype=np.int64)),
                optimizer=template.kind,
                learning_rate_multiplier=multiplier,
                effective_learning_rate=rate * learned.get(outcome.group, 1.0),
                weight_decay=decay,
                gradient=tuple(transform.label for transform in transforms),
                trainable=moves,
                rules=tuple(book.rules[index].rule.name for index in selected.rules),
            )
        )
    return result


def rates(book: Rulebook, outcome: Outcome, base: float) -> tuple[float, float, bool]:
    """Compute (multiplier, effective learning rate, whether they move) of an outcome's weights."""
    multiplier = 1.0
    deciding = None if outcome.rate is None else book.rules[outcome.rate]
    absolute = deciding is not None and deciding.rule.learning_rate is not None
    if deciding is not None and absolute:
        rate = _now(deciding, "learning_rate")
    else:
        own = None if outcome.optimizer is None else book.rules[outcome.optimizer]
        if own is None:
            rate = base
        elif own.own_rate_name in own.numbers:
            rate = own.numbers[own.own_rate_name].current()
        else:
            rate = as_float(own.own_rate())
        if deciding is not None:
            multiplier = _now(deciding, "learning_rate_multiplier")
    for index in outcome.factors:
        multiplier *= _now(book.rules[index], "learning_rate_multiplier")
    if outcome.trainable is not None:
        switch = book.rules[outcome.trainable]
        multiplier *= _now(switch, "trainable") * as_float(switch.warmth())
    moves = multiplier > 0 and not (absolute and rate == 0)
    return multiplier, rate * multiplier, moves


def _now(live: LiveRule, name: str) -> float:
    if name in live.numbers:
        return live.numbers[name].current()
    return as_float(live.value(name))


def as_float(value: Any) -> float:
    """Convert a scalar tensor or variable to a Python float."""
    return float(backend.host_array(value))
