"""The table of how weights learn, as it is printed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from finegrain.per_weight.reports import WeightReport

WIDEST = 10_000
NARROWEST = 8
# Room for paths for which no number breaks.
ENOUGH = 32
# Lines of the table's frame: one above the header, the header, a rule, and one at the end.
FRAME = 4
# Where numbers break if room is short: before the factors of a product, in a range, between
# factors, and between a rate and its optimizer.
_BREAKS = {" = ": "\n= ", "…": "…\n", " × ": "\n× ", " ": "\n"}
# The longest list of rules that stands in the table itself, not under it.
INLINE = 24


class Row(NamedTuple):
    """A line of the table: a weight, weights that learn alike, or a series of such groups."""

    label: str
    size: int
    """The number of weights."""
    parameters: int
    first: WeightReport
    last: WeightReport
    rules: tuple[str, ...]
    """The names of the rules; in a series `{0…11}` stands for their numbers."""


def printed(
    reports: Sequence[WeightReport],
    groups: Sequence[Sequence[WeightReport]],
    notes: Sequence[str],
    fold_above: int,
    console: Console,
    options: ConsoleOptions,
) -> Iterator[RenderableType]:
    """Yield what is printed of a description: the table, and the lines under it.

    Args:
        reports: One report a weight.
        groups: The reports of weights that learn alike.
        notes: Lines to print under the table.
        fold_above: How many lines the table and its keys and totals may take before it folds.
        console: Where it is printed.
        options: The width to fit.
    """
    made = _Table([_row([report]) for report in reports], False, options)
    totals = [Text(_total(group)) for group in groups] if 2 * len(groups) <= len(reports) else []
    # Only a table that may be short enough is worth the time to lay it out.
    folded = len(reports) > fold_above
    if not folded:
        lines = console.render_lines(made.fitted(console), options)
        folded = len(lines) - FRAME + len(list(made.keys())) + len(totals) > fold_above
    if folded:
        made = _Table([_row(group) for group in groups], True, options)
        if len(made.rows) + len(list(made.keys())) > fold_above // 2:
            made = _Table(_series(made.rows), True, options)
    yield made.fitted(console)
    yield from made.keys()
    if not folded:
        yield from totals
    dtypes = {report.dtype for report in reports}
    held = sum(not report.trainable for report in reports)
    total = [_weights(len(reports)), f"{_size(reports)} parameters in all", *dtypes, f"{held} held"]
    # Where they differ, the table has a column of them.
    total = [part for part in total if len(dtypes) == 1 or part not in dtypes]
    several = len({report.optimizer for report in reports}) > 1
    who = f"{made.usual} where no other is named" if several else f"all by {made.usual}"
    yield Text(f"{', '.join(total)}; {who}")
    yield from map(Text, notes)


class _Table:
    """What the columns have in common."""

    def __init__(self, rows: Sequence[Row], folded: bool, options: ConsoleOptions) -> None:
        self.rows = rows
        self.folded = folded
        self.options = options
        kinds: Counter[str] = Counter()
        for row in rows:
            kinds[row.first.optimizer] += row.size
        self.usual = max(kinds, key=lambda kind: kinds[kind], default="–")
        gradients = (row.first.gradient for row in rows)
        self.gradients = list(dict.fromkeys(gradient for gradient in gradients if gradient))
        self.names = list(dict.fromkeys(name for row in rows for name in row.rules))
        self.inline = all(len(", ".join(row.rules)) <= INLINE for row in rows)
        self.dtypes = len({row.first.dtype for row in rows}) > 1

    def fitted(self, console: Console) -> Table:
        """Make the table; where room is short, break its lines between names."""
        wide = self.options.update(width=WIDEST)
        longest = max((len(_counted(row)) for row in self.rows), default=0)
        names = [name for row in self.rows for name in _names(_counted(row))]
        longest_name = len("  ") + max(map(len, names), default=0)
        enough = min(longest, longest_name, ENOUGH)
        broken: list[str] = []
        room = self._room(console, wide, longest, broken)
        for sign in _BREAKS:
            if room >= enough:
                break
            broken.append(sign)
            room = self._room(console, wide, longest, broken)
        return self._made(max(room, NARROWEST), False, broken)

    def _room(
        self, console: Console, wide: ConsoleOptions, longest: int, broken: Sequence[str]
    ) -> int:
        """Compute the width left for paths if rules, which wrap first, are at their narrowest."""
        others = Measurement.get(console, wide, self._made(WIDEST, True, broken))
        return self.options.max_width - (others.maximum - longest)

    def _made(self, room: int, break_rules: bool, broken: Sequence[str]) -> Table:
        """Make the table with `room` characters for paths, and numbers that break at these."""
        made = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
        made.add_column("weights" if self.folded else "weight", no_wrap=True)
        made.add_column("params" if self.folded else "shape", justify="right", no_wrap=True)
        made.add_column("rate ×", justify="right", no_wrap=True)
        made.add_column("rate", justify="right", no_wrap=True)
        made.add_column("decay", justify="right", no_wrap=True)
        if self.dtypes:
            made.add_column("dtype", no_wrap=True)
        if self.gradients:
            made.add_column("gradient", justify="center", no_wrap=True)
        made.add_column("rules", overflow="fold", min_width=len("rules"))
        for row in self.rows:
            path, size, product, rate, *cells, rules = self._cells(row)
            for sign in broken:
                rate = rate.replace(sign, _BREAKS[sign])
                product = product if sign == " " else product.replace(sign, _BREAKS[sign])
            rules = "\n".join(rules.split()) if break_rules else rules
            made.add_row(*map(Text, [_broken(path, room), size, product, rate, *cells, rules]))
        return made

    def _cells(self, row: Row) -> list[str]:
        first, last = row.first, row.last
        shape = "×".join(map(str, first.shape)) or "scalar"
        rate = _span(first.effective_learning_rate, last.effective_learning_rate)
        rate = rate if first.trainable else "held"
        cells = [
            _counted(row),
            short_size(row.parameters) if self.folded else shape,
            _product(row),
            rate if first.optimizer == self.usual else f"{rate} {first.optimizer}",
            f"{first.weight_decay:.3g}" if first.weight_decay else "–",
        ]
        if self.dtypes:
            cells.append(first.dtype)
        if self.gradients:
            place = self.gradients.index(first.gradient) if first.gradient else None
            cells.append("–" if place is None else str(1 + place))
        names = row.rules
        shown = names if self.inline else [str(1 + self.names.index(name)) for name in names]
        return [*cells, ", ".join(dict.fromkeys(shown)) or "–"]

    def keys(self) -> Iterator[RenderableType]:
        """Yield what the numbers in the table stand for, each once."""
        if not self.inline:
            for number, name in enumerate(self.names, 1):
                begin = f"rule {number}: "
                yield Text(begin + _short(name, self.options.max_width - len(begin)))
        for number, gradient in enumerate(self.gradients, 1):
            yield Text(f"gradient {number}: {', '.join(gradient)}")
        if self.gradients or not self.inline:
            yield Text()


def _row(group: Sequence[WeightReport]) -> Row:
    first = group[0]
    label = _together([report.path for report in group])
    parameters = sum(report.parameters for report in group)
    return Row(label, len(group), parameters, first, first, first.rules)


def _together(paths: Sequence[str]) -> str:
    """Abbreviate the paths to what they have in common, or to the first and last layer."""
    if len(paths) == 1:
        return paths[0]
    parts = [path.split("/") for path in paths]
    leading = list(takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False)))
    if leading:
        return f"{'/'.join(level[0] for level in leading)}/…"
    if len({part[-1] for part in parts}) == 1:
        return f"…/{parts[0][-1]}"
    return f"{parts[0][0]} … {parts[-1][0]}"


# Series: groups of numbered layers.


def _series(rows: Sequence[Row]) -> list[Row]:
    """Join three or more rows that differ by rising numbers in their names, and by their rates."""
    runs: list[list[Row]] = []
    latest: dict[Any, list[Row]] = {}
    for row in rows:
        pattern = _pattern(row)
        run = latest.get(pattern)
        if run is not None and _continues(run, row):
            run.append(row)
        else:
            run = latest[pattern] = [row]
            runs.append(run)
    return [row for run in runs for row in ([_joined(run)] if len(run) > 2 else run)]


def _continues(run: Sequence[Row], row: Row) -> bool:
    """Return whether `row` goes on as the rows before it: by one, with rates that rise or fall."""
    changes, rises = _step(run[-1], row)
    by_one = any(changes) and all(abs(change) <= 1 for change in changes)
    return by_one and (len(run) == 1 or _step(run[-2], run[-1]) == (changes, rises))


def _pattern(row: Row) -> tuple[Any, ...]:
    """Return what rows of a series have in common."""
    report = row.first
    names = tuple(re.sub(r"\d+", "#", name) for name in (row.label, *row.rules))
    kept = (report.optimizer, report.weight_decay, report.gradient, report.trainable, report.dtype)
    return (names, row.size, kept, len(_factors(report)))


def _step(before: Row, row: Row) -> tuple[Any, ...]:
    """Return how the numbers in the names, and the rates, change from a row to the next."""
    pairs = zip(_numbers(before), _numbers(row), strict=True)
    changes = tuple(after - earlier for earlier, after in pairs)
    rates = zip(_rates(before.first), _rates(row.first), strict=True)
    rises = tuple((after > earlier) - (after < earlier) for earlier, after in rates)
    return changes, rises


def _numbers(row: Row) -> list[int]:
    return [int(found) for name in (row.label, *row.rules) for found in re.findall(r"\d+", name)]


def _rates(report: WeightReport) -> list[float]:
    rates = [report.learning_rate_multiplier, report.effective_learning_rate]
    return rates + _factors(report)


def _joined(run: Sequence[Row]) -> Row:
    first, last = run[0], run[-1]
    return Row(
        _numbered(first.label, last.label),
        sum(row.size for row in run),
        sum(row.parameters for row in run),
        first.first,
        last.first,
        tuple(map(_numbered, first.rules, last.rules)),
    )


def _numbered(first: str, last: str) -> str:
    """Write `{0…11}` where the numbers in two names differ."""
    parts = zip(re.split(r"(\d+)", first), re.split(r"(\d+)", last), strict=True)
    return "".join(a if a == b else f"{{{a}…{b}}}" for a, b in parts)


# Cells and lines.


def _factors(report: WeightReport) -> list[float]:
    """Return the factors that change the rate."""
    return [factor for _, factor in report.factors if factor != 1]


def _product(row: Row) -> str:
    total = _span(row.first.learning_rate_multiplier, row.last.learning_rate_multiplier)
    factors = list(map(_span, _factors(row.first), _factors(row.last)))
    return f"{total} = {' × '.join(factors)}" if len(factors) > 1 else total


def _span(first: float, last: float) -> str:
    """Write a number, or the first and the last of a series."""
    a, b = f"{first:.3g}", f"{last:.3g}"
    return a if a == b else f"{a}…{b}"


def _counted(row: Row) -> str:
    return row.label if row.size == 1 else f"{row.label} ×{row.size}"


def _size(reports: Sequence[WeightReport]) -> str:
    return short_size(sum(report.parameters for report in reports))


def short_size(parameters: int) -> str:
    """Write a number of parameters: exactly, or in millions from one million on."""
    return f"{parameters:,}" if parameters < 1_000_000 else f"{parameters / 1e6:,.1f} M"


def _weights(count: int) -> str:
    return f"{count} weight" if count == 1 else f"{count} weights"


def _total(group: Sequence[WeightReport]) -> str:
    first = group[0]
    rate = f"at {first.effective_learning_rate:.3g}" if first.trainable else "held"
    return (
        f"{_weights(len(group))}, {_size(group)} parameters: "
        f"{first.optimizer} {rate} (× {first.learning_rate_multiplier:.3g})"
    )


def _broken(path: str, room: int) -> str:
    """Break the path into lines of at most `room` characters; break only longer names."""
    if len(path) <= room:
        return path
    lines = [""]
    for name in _names(path):
        indent = "  " if 2 + len(name) <= room else ""
        parts = [name[start : start + room] for start in range(0, len(name), room)]
        if len(lines[-1]) + len(name) <= room:
            lines[-1] += name
        else:
            lines += [indent + part for part in parts]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _names(path: str) -> list[str]:
    """Split a path behind its slashes, and what stands for several paths behind its blanks."""
    return re.findall("[^/ ]*[/ ]|[^/ ]+", path)


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"
