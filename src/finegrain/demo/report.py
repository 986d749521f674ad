"""What `finegrain demo` and `finegrain score` say: tables, and what was and was not observed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finegrain.demo.run import DemoResult, Run, f1_difference
from finegrain.tagging.schemes import BMES
from finegrain.tagging.scores import SegmentationScore


def score_table(
    scores: Mapping[str, SegmentationScore], seconds: Mapping[str, float] | None = None
) -> Table:
    """Make a table of scores, one line per tagger."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("tagger")
    for heading in ("F1", "precision", "recall", "OOV recall", "words"):
        table.add_column(heading, justify="right")
    if seconds is not None:
        table.add_column("seconds", justify="right")
    for name, result in scores.items():
        oov = "–" if result.oov_recall is None else f"{result.oov_recall:.4f}"
        numbers = [f"{result.f1:.4f}", f"{result.precision:.4f}", f"{result.recall:.4f}", oov]
        numbers.append(f"{result.gold_words:,}")
        if seconds is not None:
            numbers.append(f"{seconds[name]:.0f}")
        table.add_row(Text(name), *numbers)
    return table


def transition_table(name: str, transitions: np.ndarray, labels: Sequence[str]) -> Table:
    """Make a table with labelled rows (from) and columns (to); what the scheme forbids is dim."""
    table = Table(title=name, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column()
    for label in labels:
        table.add_column(label, justify="right")
    for label, row, allowed in zip(labels, transitions, BMES().allowed, strict=True):
        cells = [
            f"{value:.2f}" if permitted else f"[dim]{value:.2f}[/dim]"
            for value, permitted in zip(row, allowed, strict=True)
        ]
        table.add_row(label, *cells)
    return table


def print_report(result: DemoResult, console: Console, command: str = "finegrain") -> None:
    """Print the results of the demo.

    Args:
        result: What came of it.
        console: Where to print.
        command: How `finegrain` is called, in the lines to type next.
    """
    scores = {run.name: run.score for run in result.runs}
    seconds = {run.name: run.seconds for run in result.runs}
    console.print()
    console.print("Words found on the held-out topics:")
    console.print(score_table(scores, seconds))
    console.print("Transition scores, from row to column (what spells no word is dim):")
    crfs = [run for run in result.runs if run.transitions is not None]
    tables = [
        transition_table(run.name, run.transitions, result.labels)
        for run in crfs
        if run.transitions is not None
    ]
    console.print(Columns(tables, padding=(0, 4)))
    console.print("Observed:")
    for line in observations(result):
        console.print(f"• {line}", highlight=False)
    console.print()
    lines = list(result.failures.values())
    if result.model_file is not None:
        lines.append(f"Model of the best tagger ({result.best.name}): {result.model_file}")
    if result.picture_file is not None:
        lines.append(f"Picture of the transitions: {result.picture_file}")
    elif "picture" not in result.failures:
        lines.append("No picture: matplotlib is missing (pip install matplotlib).")
    if result.model_file is not None:
        model = shlex.quote(str(result.model_file))
        lines += ["Next:", f"  echo thisworksforanytext | {command} segment {model}"]
    lines += [
        "With a corpus of your own, a sentence a line and blanks between the words:",
        f"  {command} train YOUR_CORPUS --out your.keras",
        f"  {command} score your.keras OTHER_CORPUS",
    ]
    for line in lines:
        console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def observations(result: DemoResult) -> list[str]:
    """Write sentences on what the numbers do and do not show."""
    softmax, slow, fast = result.runs
    return [
        _comparison(softmax, slow),
        _comparison(softmax, fast),
        _comparison(slow, fast),
        *(
            _matrix(run.name, run.transitions)
            for run in (slow, fast)
            if run.transitions is not None
        ),
    ]


def _comparison(first: Run, second: Run) -> str:
    difference, low, high = f1_difference(first, second)
    numbers = f"{difference:+.4f} (95 % interval over sentences {low:+.4f} to {high:+.4f})"
    if low <= 0 <= high:
        verdict = "no difference that this test set can tell from chance"
    else:
        verdict = "better" if difference > 0 else "worse"
    return f"{second.name} against {first.name}: F1 {numbers}: {verdict}."


def _matrix(name: str, scores: np.ndarray) -> str:
    allowed = BMES().allowed
    ordered = sum(
        int(good > bad)
        for row, permitted in zip(scores, allowed, strict=True)
        for good in row[permitted]
        for bad in row[~permitted]
    )
    pairs = int(sum(row.sum() * (~row).sum() for row in allowed))
    return (
        f"{name}: {ordered} of {pairs} pairs of transitions are in the right order (one that "
        f"spells words above one from the same tag that does not); scores from {scores.min():.2f} "
        f"to {scores.max():.2f}."
    )
